// Samples the digits model in a worker, one level at a request.
import { Pipeline } from "./sampler.js";

let pipeline = null, frames = null, run = null;

async function load(folder) {
  const get = async (name) => {
    const response = await fetch(new URL(name, folder));
    if (!response.ok) throw new Error(`${name} of the model could not be loaded (${response.status})`);
    return response;
  };
  const [config, model, means] = await Promise.all([
    get("config.json").then((response) => response.json()),
    get("model.safetensors").then((response) => response.arrayBuffer()),
    get("target_means.safetensors").then((response) => response.arrayBuffer()),
  ]);
  pipeline = new Pipeline(config, model, means);
  self.postMessage({ type: "loaded" });
}

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "load") await load(data.folder);
    if (data.type === "start") {
      run = data.run;
      frames = pipeline.sample(data.noise, data.count, data.options);
    }
    if (data.type === "next" && data.run === run) {
      const { value: frame, done } = frames.next();
      if (!done) self.postMessage({ type: "frame", run, frame });
    }
  } catch (error) {
    self.postMessage({ type: "failed", message: error.message });
  }
};
