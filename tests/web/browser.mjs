// The live page in headless Chromium: `node tests/web/browser.mjs URL SCREENSHOTS [WORD]`, as `make web-test` calls it; with a word,
// the checks whose names have it. CHROMIUM names the browser. Nothing but the loopback can be reached.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { launch } from "./chromium.mjs";

const [url, screenshots, word = ""] = process.argv.slice(2);
const MOST_BYTES = 3e6;
const SIZES = {
  desktop: { width: 1440, height: 900 },
  "desktop-dark": { width: 1440, height: 900, media: [{ name: "prefers-color-scheme", value: "dark" }] },
  "desktop-still": { width: 1440, height: 900, media: [{ name: "prefers-reduced-motion", value: "reduce" }] },
  phone: { width: 390, height: 844, mobile: true },
};
const CONTROLS = new Set(["button", "checkbox", "combobox", "link", "slider", "spinbutton", "tab", "textbox"]);
const text = (id) => `document.getElementById("${id}").textContent`;
const steps = `Number(${text("steps")})`;
const choose = (id, value) => `(() => { const e = document.getElementById("${id}"); e.value = "${value}";
  for (const name of ["input", "change"]) e.dispatchEvent(new Event(name, { bubbles: true })); })()`;

/** The least time of many sums over 1000 x 1000 pairs, which other programs do not lengthen, by the pair. */
const nanosecondsAPair = (kernel) => `(async () => {
  const { compiledSums } = await import("${new URL("flow/simd.js", url)}");
  const sum = compiledSums(), cloud = () => ({ x: Float64Array.from({ length: 1000 }, Math.random), y: Float64Array.from({ length: 1000 }, Math.random) });
  const [a, b] = [cloud(), cloud()];
  let least = Infinity;
  for (let i = 0; i < 100; i++) {
    const start = performance.now();
    for (let j = 0; j < 3; j++) sum({ kernel: "${kernel}", width: 0.3 }, a, b);
    least = Math.min(least, (performance.now() - start) / 3);
  }
  return least;  // milliseconds a million pairs
})()`;

mkdirSync(screenshots, { recursive: true });
const browser = await launch(process.env.CHROMIUM || "chromium");
let page;

async function open(size, least = 5) {
  page = await browser.page(SIZES[size]);
  await page.call("Page.navigate", { url });
  await page.until(`document.readyState === "complete" && document.getElementById("unserved").hidden && ${steps} >= ${least}`);
}

/** What must hold of a page whatever was done on it. */
async function clean() {
  assert.deepEqual(page.problems, [], "the console is silent");
  const elsewhere = page.requests.filter((request) => !request.startsWith(url) && !request.startsWith("blob:"));
  assert.deepEqual(elsewhere, [], "nothing is asked of another host");
}

async function shoot(name) {
  writeFileSync(join(screenshots, `${name}.png`), await page.screenshot());
}

/** Every control in the accessibility tree has a name, and is large enough to touch; the page is no wider than the screen. */
async function accessible(size) {
  const { nodes } = await page.call("Accessibility.getFullAXTree");
  const controls = nodes.filter((node) => !node.ignored && CONTROLS.has(node.role?.value));
  const nameless = controls.filter((node) => !node.name?.value?.trim()).map((node) => node.role.value);
  assert.deepEqual(nameless, [], "controls without a name");
  const { width, small } = await page.evaluate(`({ width: document.documentElement.scrollWidth,
    small: [...document.querySelectorAll("button, select, input:not([type=file])")].map((e) => [e.id, e.getBoundingClientRect()])
      .filter(([, box]) => box.width && (box.height < 24 || box.width < 24) && box.height !== 18).map(([id]) => id) })`);
  assert.ok(width <= SIZES[size].width, `the page is ${width} wide`);
  assert.deepEqual(small, [], "controls too small to touch");
  return controls.length;
}

/** Return the ids that Tab goes through, from the top of the page. */
async function tabOrder() {
  await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)");
  const seen = [];
  for (let i = 0; i < 60; i++) {
    await page.key("Tab");
    const id = await page.evaluate(`(document.activeElement.id || document.activeElement.tagName.toLowerCase() + "." + document.activeElement.className)`);
    if (id.startsWith("body") || (seen.length && id === seen[0])) break;
    seen.push(id);
  }
  return seen;
}

/** Return the seconds of the processor that the browser's processes have taken; null where there is no /proc. */
function processorSeconds() {
  const stat = (pid) => readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /, "").split(" ");
  try {
    const parents = new Map(readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
      try {
        return [[Number(pid), Number(stat(pid)[1])]];
      } catch {
        return [];  // it has ended
      }
    }));
    const ofBrowser = (pid) => pid === browser.pid || (parents.has(pid) && ofBrowser(parents.get(pid)));
    const ticks = [...parents.keys()].filter(ofBrowser).map((pid) => Number(stat(pid)[11]) + Number(stat(pid)[12]));
    return ticks.reduce((a, b) => a + b, 0) / 100;
  } catch {
    return null;
  }
}

const checks = {
  "the flow starts by itself, and F falls": async () => {
    await open("desktop");
    await page.until(`${steps} >= 40`, 90);
    assert.ok(Number(await page.evaluate(text("value"))) < 0.1);
    await shoot("flow-desktop");
    await clean();
  },
  "every control is reached by the keyboard and has a name": async () => {
    const count = await accessible("desktop");
    const order = await tabOrder();
    const wanted = ["tab-flow", "theme", "pause", "restart", "target", "open", "kernel", "field", "step", "step-auto", "momentum", "noise",
      "count", "source", "show-witness", "show-arrows", "show-target"];
    assert.deepEqual(wanted.filter((id) => !order.includes(id)), [], `reached: ${order}`);
    assert.ok(count >= wanted.length);
    await page.evaluate(`document.getElementById("noise").focus()`);
    await page.key("ArrowRight");
    assert.equal(await page.evaluate(`document.querySelector('output[for="noise"]').textContent`), "0.01");
    await page.evaluate(`document.getElementById("pause").focus()`);
    await page.key(" ", "Space", " ");
    assert.equal(await page.evaluate(text("pause")), "Play");
    await page.key(" ", "Space", " ");
    await page.evaluate(choose("noise", 0));
    await clean();
  },
  "a drawing becomes the target": async () => {
    const before = await page.evaluate(steps);
    const zigzag = Array.from({ length: 150 }, (_, i) => [300 + 3 * i, 400 + 80 * Math.sin(i / 8)]);
    await page.drag(zigzag, 20);
    assert.ok((await page.evaluate(steps)) > before, "particles move while a target is drawn");
    await page.until(`document.getElementById("target").value === "drawing"`);
    await page.evaluate(`document.getElementById("restart").click()`);
    await page.until(`${steps} >= 30`, 90);
    await shoot("drawing-desktop");
    await page.evaluate(`document.getElementById("clear").click()`);
    assert.match(await page.evaluate(text("status")), /draw on the picture/);
    await clean();
  },
  "text, kernels, drifts and arrows": async () => {
    await page.evaluate(choose("target", "text"));
    await page.evaluate(choose("text", "MMD"));
    for (const kernel of ["imq", "laplace", "gaussian"]) {
      await page.evaluate(choose("kernel", kernel));
      await page.evaluate(`document.getElementById("restart").click()`);
      await page.until(`${steps} >= 5 && ${text("value")} !== "–"`, 90);
    }
    await page.evaluate(choose("field", "mean-shift"));
    await page.evaluate(`document.getElementById("show-arrows").click(); document.getElementById("restart").click()`);
    await page.until(`${steps} >= 15`, 90);
    assert.match(await page.evaluate(text("python")), /Drift\(target, Gaussian\(0\.\d+\), normalization="mean-shift"\)/);
    await shoot("drift-desktop");
    await page.evaluate(choose("width", -1.7));
    await page.evaluate(choose("source", "left"));
    await page.until(`${text("status")}.includes("feel no pull")`, 60);
    await page.evaluate(choose("field", "mmd"));
    await page.evaluate(choose("kernel", "riesz"));
    assert.equal(await page.evaluate(`document.getElementById("field").querySelector('[value="mean-shift"]').disabled`), true);
    await clean();
  },
  "a step that is too large is said": async () => {
    await page.evaluate(choose("kernel", "riesz"));
    await page.evaluate(`document.getElementById("momentum").max = 1.5`);
    await page.evaluate(choose("momentum", 1.5));
    await page.until(`${text("status")}.includes("step is too large")`, 120);
    assert.equal(await page.evaluate(text("pause")), "Play");
    await page.evaluate(`document.getElementById("step-auto").click(); document.getElementById("pause").click()`);
    await clean();
  },
  "tables and pictures, and files that are neither": async () => {
    const folder = mkdtempSync(join(tmpdir(), "mmdflow-files-"));
    const file = (name, content) => {
      writeFileSync(join(folder, name), content);
      return page.chooseFile("#file", join(folder, name));
    };
    await file("moons.csv", "id,a,b\n" + Array.from({ length: 90 }, (_, i) => `r${i},${Math.cos(i)},${Math.sin(i)}\n`).join(""));
    await page.until(`${text("status")}.includes("moons.csv: a and b, 90 of 90 rows")`);
    await file("broken.csv", "a,b\n1,2\n3\n");
    await page.until(`${text("status")}.includes("row 3 of the table has 1 columns")`);
    await file("ink.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><circle cx="45" cy="30" r="20"/></svg>');
    await page.until(`${text("status")} === "ink.svg"`);
    await file("blank.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"/>');
    await page.until(`${text("status")}.includes("blank.svg holds no dark pixel")`);
    await file("nothing.bin", "\0\0");
    await page.until(`${text("status")}.includes("nothing.bin is no picture that the browser reads")`);
    await clean();
  },
  "the digits model samples down the levels": async () => {
    await page.evaluate(`document.getElementById("tab-flow").focus()`);
    await page.key("ArrowRight");
    assert.equal(await page.evaluate(`document.getElementById("panel-digits").hidden`), false);
    await page.evaluate(choose("samples", 16));
    await page.until(`${text("digits-pause")} === "Replay"`, 120);
    const values = JSON.parse(await page.evaluate(`JSON.stringify([Number(${text("level")}), Number(${text("mismatch")})])`));
    assert.ok(values[0] < 0.2 && values[1] < 1, `${values}`);
    await page.evaluate(choose("samples", 64));
    await page.evaluate(choose("class", "every"));
    await page.until(`document.getElementById("scrub").value > 25`, 120);
    await accessible("desktop");
    await page.until(`${text("digits-pause")} === "Replay"`, 240);
    await shoot("digits-desktop");
    await page.evaluate(choose("scrub", 20));
    assert.ok(Number(await page.evaluate(text("level"))) > 0.5);
    await clean();
    assert.ok(page.bytes < MOST_BYTES, `${page.bytes} bytes in all`);
    console.log(`    the page and the model: ${(page.bytes / 1e6).toFixed(2)} MB`);
  },
  "dark colours": async () => {
    await open("desktop-dark");
    assert.equal(await page.evaluate(`document.getElementById("theme").getAttribute("aria-pressed")`), "true");
    await page.until(`${steps} >= 40`, 90);
    await shoot("flow-dark");
    await clean();
  },
  "a phone": async () => {
    await open("phone");
    await page.until(`${steps} >= 40`, 90);
    await accessible("phone");
    await shoot("flow-phone");
    await page.evaluate(`document.getElementById("tab-digits").click()`);
    await page.evaluate(choose("samples", 16));
    await page.until(`${text("digits-pause")} === "Replay"`, 120);
    await accessible("phone");
    await shoot("digits-phone");
    await clean();
  },
  "where motion is not wanted, the flow waits for Play": async () => {
    await open("desktop-still", 0);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    assert.deepEqual([await page.evaluate(steps), await page.evaluate(text("pause"))], [0, "Play"]);
    await page.evaluate(`document.getElementById("pause").click()`);
    await page.until(`${steps} >= 5`);
    await clean();
  },
  "four workers take the same steps as one": async () => {
    const runs = [];
    for (const processors of [2, 5]) {
      page = await browser.page(SIZES.desktop);
      await page.call("Emulation.setHardwareConcurrencyOverride", { hardwareConcurrency: processors });
      await page.call("Page.navigate", { url });
      await page.until(`document.readyState === "complete" && ${steps} >= 5`);
      await page.evaluate(`window.seen = {}; document.getElementById("panel-flow").dispatchEvent(new Event("keydown"));
        new MutationObserver(() => (seen[${steps}] = ${text("value")})).observe(document.getElementById("steps"), { childList: true })`);
      await page.evaluate(choose("target", "rings"));
      await page.evaluate(choose("count", 1000));
      await page.until("seen[30]", 90);
      runs.push(JSON.parse(await page.evaluate("JSON.stringify(seen)")));
      assert.equal(page.workers, processors - 1);
      await clean();
    }
    for (const step of [5, 15, 30]) assert.equal(runs[0][step], runs[1][step]);
  },
  "3000 particles: frames a second": async () => {
    await open("desktop");
    console.log(`    ${cpus().length} x ${cpus()[0].model}, load ${loadavg()[0].toFixed(1)}, drawn without a GPU`);
    for (const kernel of ["riesz", "gaussian", "laplace", "imq"]) {
      await page.evaluate(choose("kernel", kernel));
      const before = await page.evaluate(steps), start = Date.now(), used = processorSeconds();
      await page.until(`${steps} >= ${before} + 100`, 240);
      const taken = (await page.evaluate(steps)) - before;
      const rate = (1000 * taken) / (Date.now() - start);
      const cost = used === null ? "" : `, ${((1000 * (processorSeconds() - used)) / taken).toFixed(0)} ms of processors a step, all told`;
      const pair = await page.evaluate(nanosecondsAPair(kernel));
      console.log(`    ${kernel}: ${rate.toFixed(1)} steps a second${cost}; a pair takes ${pair.toFixed(2)} ns`);
    }
  },
};

let failed = 0;
console.log(await browser.version());
for (const [name, check] of Object.entries(checks).filter(([name]) => name.includes(word))) {
  try {
    if (!page) await open("desktop");
    await check();
    console.log(`ok  ${name}`);
  } catch (error) {
    failed++;
    console.log(`NOT OK  ${name}\n    ${error.message}`);
    await shoot("failed").catch(() => {});
  }
}
await browser.close();
process.exitCode = failed ? 1 : 0;
