/** The panel of tools: its buttons and sliders, and what they show. */

import { type Actions, TOOLS } from "./commands";
import { byId, make, press } from "./dom";
import type { Editor } from "./editor";
import { icon } from "./icons";
import type { Tools, ToolSettings } from "./tools";
import type { Viewer } from "./viewer";

type SizeName = "brush_mm" | "tolerance" | "reach_mm" | "depth_mm" | "radius_mm";

const SIZES_OF: Record<ToolSettings["tool"], readonly SizeName[]> = {
  navigate: [],
  window: [],
  brush: ["brush_mm"],
  eraser: ["brush_mm"],
  contour: [],
  fill: ["tolerance", "reach_mm"],
  box: ["depth_mm"],
  sphere: ["radius_mm"],
};
const UNITS: Record<SizeName, string> = {
  brush_mm: "mm",
  tolerance: "% of window",
  reach_mm: "mm",
  depth_mm: "mm",
  radius_mm: "mm",
};
const SIZES = Object.keys(UNITS) as SizeName[];

/** Changes the first size of the current tool, if it has one, by a step: what `[` and `]` do. */
export function resize(settings: ToolSettings, step: 1 | -1): void {
  const [name] = SIZES_OF[settings.tool];
  if (!name) return;
  const input = byId<HTMLInputElement>(name);
  settings[name] = Math.min(Math.max(settings[name] + step, Number(input.min)), Number(input.max));
}

/** Wires the panel once; `actions` and `tools` are those of the case that is open. */
export function wirePanel(actions: () => Actions, tools: () => Tools, changed: () => void): void {
  byId("tool-buttons").append(
    ...TOOLS.map(({ tool, name, key }) => {
      const title = `${name} (${key.toUpperCase()})`;
      const button = make("button", { type: "button", id: `tool-${tool}`, title }, icon(tool), name);
      button.addEventListener("click", () => actions().tool(tool));
      return button;
    }),
  );
  const buttons: Record<string, (a: Actions) => void> = {
    "label-1": (a) => a.label(1),
    "label-2": (a) => a.label(2),
    undo: (a) => a.undo(),
    redo: (a) => a.redo(),
    clear: (a) => a.clear(),
    "load-mask": (a) => a.loadMask(),
    "save-mask": (a) => a.saveMask(),
    "save-synthesis": (a) => a.saveSynthesis(),
    "open-other": (a) => a.openOther(),
    evidence: (a) => a.toggleEvidence(),
    multiplanar: (a) => a.multiplanar(),
    crosshair: (a) => a.crosshair(),
    convention: (a) => a.convention(),
    "zoom-in": (a) => a.zoom(1.25),
    "zoom-out": (a) => a.zoom(0.8),
    "zoom-fit": (a) => a.zoom(0),
    "slice-up": (a) => a.slice(1),
    "slice-down": (a) => a.slice(-1),
  };
  for (const [id, run] of Object.entries(buttons)) byId(id).addEventListener("click", () => run(actions()));
  byId<HTMLInputElement>("fill-over").addEventListener("change", (event) => {
    tools().settings.over = (event.target as HTMLInputElement).checked;
  });
  for (const name of SIZES) {
    byId<HTMLInputElement>(name).addEventListener("input", (event) => {
      tools().settings[name] = Number((event.target as HTMLInputElement).value);
      changed();
    });
  }
}

/** Shows the state of the tools, the history and the view. */
export function showPanel({ settings }: Tools, editor: Editor, { view, cross }: Viewer): void {
  for (const { tool, hint } of TOOLS) {
    press(byId(`tool-${tool}`), settings.tool === tool);
    if (settings.tool === tool) byId("tool-hint").textContent = hint;
  }
  press(byId("label-1"), settings.label === 1);
  press(byId("label-2"), settings.label === 2);
  for (const name of SIZES) {
    byId(`setting-${name}`).hidden = !SIZES_OF[settings.tool].includes(name);
    setRange(name, settings[name], `${settings[name]} ${UNITS[name]}`);
  }
  setRange("opacity", Math.round(100 * view.opacity), `${Math.round(100 * view.opacity)} %`);
  byId("setting-over").hidden = settings.tool !== "fill";
  byId<HTMLInputElement>("fill-over").checked = settings.over;
  byId<HTMLButtonElement>("undo").disabled = editor.locked || !editor.history.canUndo;
  byId<HTMLButtonElement>("redo").disabled = editor.locked || !editor.history.canRedo;
  press(byId("multiplanar"), view.multiplanar);
  press(byId("crosshair"), view.crosshair);
  byId("convention").textContent = view.radiological ? "Switch to neurological" : "Switch to radiological";
  byId("convention-text").textContent = view.radiological
    ? "Radiological: patient's right on the left"
    : "Neurological: patient's right on the right";
  byId<HTMLInputElement>("slice").value = String(cross[2]);
}

function setRange(id: string, value: number, text: string): void {
  const input = byId<HTMLInputElement>(id);
  input.value = String(value);
  const output = input.parentElement!.querySelector("output")!;
  if (output.textContent !== text) output.textContent = text;
}
