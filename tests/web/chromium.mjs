// Headless Chromium over its DevTools pipe: no packages, no port.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Start Chromium with no network but the loopback; return {page(size), close()}. */
export async function launch(binary) {
  const profile = mkdtempSync(join(tmpdir(), "mmdflow-web-"));
  const root = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  const flags = [
    "--headless", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "--no-first-run", "--disable-gpu", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", ...root, "about:blank",
  ];
  const process_ = spawn(binary, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const [, , , to, from] = process_.stdio;
  const waiting = new Map(), listeners = [];
  let calls = 0, rest = "";
  from.setEncoding("utf8");
  from.on("data", (text) => {
    const messages = (rest + text).split("\0");
    rest = messages.pop();
    for (const message of messages.map((m) => JSON.parse(m))) {
      if (message.id === undefined) listeners.forEach((listener) => listener(message));
      else {
        const { resolve, reject } = waiting.get(message.id);
        waiting.delete(message.id);
        if (message.error) reject(new Error(message.error.message));
        else resolve(message.result);
      }
    }
  });
  const send = (method, params = {}, sessionId) => {
    const id = ++calls;
    to.write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  };
  return {
    page: (size) => openPage(send, listeners, size),
    pid: process_.pid,
    version: async () => (await send("Browser.getVersion")).product,
    async close() {
      const ended = new Promise((resolve) => process_.once("exit", resolve));
      await send("Browser.close");
      await ended;
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Open a page of a size, {width, height, mobile}; what it logs, throws and loads is kept. */
async function openPage(send, listeners, { width, height, mobile = false, media = [] }) {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const call = (method, params) => send(method, params, sessionId);
  const page = { call, problems: [], requests: [], bytes: 0, workers: 0 };
  const sessions = new Set([sessionId]);  // the page's and its workers'
  listeners.push(({ sessionId: of, method, params }) => {
    if (!sessions.has(of)) return;
    if (method === "Target.attachedToTarget") {
      sessions.add(params.sessionId);
      page.workers++;
      for (const step of ["Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"]) send(step, {}, params.sessionId);
    }
    if (method === "Runtime.exceptionThrown") page.problems.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) page.problems.push(JSON.stringify(params.args));
    if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) page.problems.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    if (method === "Network.requestWillBeSent") page.requests.push(params.request.url);
    if (method === "Network.loadingFinished") page.bytes += params.encodedDataLength;
  });
  for (const domain of ["Page", "Runtime", "Log", "Network", "Accessibility", "DOM"]) await call(`${domain}.enable`);
  await call("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: true, flatten: true });
  await call("Emulation.setDeviceMetricsOverride", { width, height, mobile, deviceScaleFactor: mobile ? 2 : 1 });
  if (mobile) await call("Emulation.setTouchEmulationEnabled", { enabled: true });
  await call("Emulation.setEmulatedMedia", { features: media });
  page.evaluate = async (expression) => {
    const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  page.until = async (expression, seconds = 60) => {
    const end = Date.now() + 1000 * seconds;
    while (!(await page.evaluate(expression))) {
      if (Date.now() > end) throw new Error(`not within ${seconds} s: ${expression}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  page.key = async (key, code = key, text = undefined) => {
    const virtual = { Tab: 9, Enter: 13, " ": 32, End: 35, Home: 36, ArrowLeft: 37, ArrowRight: 39 }[key];
    const event = { key, code, windowsVirtualKeyCode: virtual };
    await call("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, ...event });
    await call("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  };
  page.drag = async (points, pause = 0) => {
    const mouse = (type, [x, y]) => call("Input.dispatchMouseEvent", { type, x, y, button: "left", buttons: 1, clickCount: 1 });
    await mouse("mousePressed", points[0]);
    for (const point of points.slice(1)) {
      await mouse("mouseMoved", point);
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
    await mouse("mouseReleased", points.at(-1));
  };
  page.chooseFile = async (selector, file) => {
    const { root } = await call("DOM.getDocument");
    const { nodeId } = await call("DOM.querySelector", { nodeId: root.nodeId, selector });
    await call("DOM.setFileInputFiles", { nodeId, files: [file] });
  };
  page.screenshot = async (full = false) => Buffer.from((await call("Page.captureScreenshot", { captureBeyondViewport: full })).data, "base64");
  return page;
}
