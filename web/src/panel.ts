/** The panel of tools: its buttons and sliders, and what they show. */

import { type Actions, TOOLS } from "./commands";
import { byId, make, press } from "./dom";
import type { Editor } from "./editor";
import { icon } from "./icons";
import type { Tools, ToolSettings } from "./tools";
import type { Viewer } from "./viewer";

type SizeName = "brush_mm" | "tolerance" | "depth_mm" | "radius_mm";

const SIZE_OF: Partial<Record<ToolSettings["tool"], SizeName>> = {
  brush: "brush_mm",
  eraser: "brush_mm",
  fill: "tolerance",
  box: "depth_mm",
  sphere: "radius_mm",
};
const UNITS: Record<SizeName, string> = { brush_mm: "mm", tolerance: "% of window", depth_mm: "mm", radius_mm: "mm" };
const SIZES = Object.keys(UNITS) as SizeName[];

/** The part of the current tool's settings that `[` and `]` change; the tool has none: null. */
export function resize(settings: ToolSettings, step: 1 | -1): void {
  const name = SIZE_OF[settings.tool];
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
    overlay: (a) => a.toggleOverlay(),
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
    byId(`setting-${name}`).hidden = SIZE_OF[settings.tool] !== name;
    setRange(name, settings[name], `${settings[name]} ${UNITS[name]}`);
  }
  setRange("opacity", Math.round(100 * view.opacity), `${Math.round(100 * view.opacity)} %`);
  byId<HTMLButtonElement>("undo").disabled = editor.locked || !editor.history.canUndo;
  byId<HTMLButtonElement>("redo").disabled = editor.locked || !editor.history.canRedo;
  const overlay = { filled: "Filled", outline: "Outlined", hidden: "Hidden" }[view.overlay];
  byId("overlay").textContent = overlay;
  byId("overlay").setAttribute("aria-label", `Overlay: ${overlay.toLowerCase()}`);
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
