// Where the page starts.
import { $, wireTabs } from "./common/controls.js";
import { wireTheme } from "./common/theme.js";
import { DigitsTab } from "./digits/tab.js";
import { FlowTab } from "./flow/tab.js";

function fail(message) {
  $("failure").textContent = message;
  $("failure").hidden = false;
}

$("unserved").hidden = true;
const tabs = { "panel-flow": new FlowTab(fail), "panel-digits": new DigitsTab(fail) };
wireTabs(document.querySelector('[role="tablist"]'), (shown) => {
  for (const [panel, tab] of Object.entries(tabs)) tab.show(panel === shown);
});
wireTheme($("theme"), () => Object.values(tabs).forEach((tab) => tab.recolour()));
