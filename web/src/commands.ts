/** Everything the page can do, by name: what buttons call, and which keys call it. */

import type { Shown } from "./display";
import type { Tool } from "./tools";

export interface Actions {
  tool(tool: Tool): void;
  label(label: 1 | 2): void;
  size(step: 1 | -1): void;
  undo(): void;
  redo(): void;
  clear(): void;
  loadMask(): void;
  saveMask(): void;
  saveSynthesis(): void;
  openOther(): void;
  show(shown: Shown): void;
  togglePrompt(): void;
  toggleDifference(): void;
  toggleOverlay(): void;
  opacity(step: 1 | -1): void;
  toggleEvidence(): void;
  multiplanar(): void;
  crosshair(): void;
  convention(): void;
  resetWindows(): void;
  zoom(factor: number): void;
  /** Moves the crosshair on the screen; `pen` draws on the way. */
  move(right: number, up: number, pen: boolean): void;
  slice(step: number): void;
  stamp(close: boolean): void;
  cancel(): void;
  help(): void;
}

export interface Command {
  /** As in KeyboardEvent.key, lower case for letters; "Ctrl+" and "Shift+" in front. */
  keys: readonly string[];
  says: string;
  run(actions: Actions): void;
}

export const TOOLS: readonly { tool: Tool; name: string; key: string; hint: string }[] = [
  { tool: "navigate", name: "Navigate", key: "n", hint: "Right button drags the window." },
  { tool: "window", name: "Window", key: "w", hint: "Across: width. Up: level." },
  { tool: "brush", name: "Brush", key: "b", hint: "Right button erases." },
  { tool: "eraser", name: "Eraser", key: "e", hint: "Drag to erase." },
  { tool: "contour", name: "Contour", key: "c", hint: "Filled on release." },
  { tool: "fill", name: "Fill", key: "f", hint: "Click: what looks alike there." },
  { tool: "box", name: "Box", key: "x", hint: "Drag a rectangle." },
  { tool: "sphere", name: "Sphere", key: "s", hint: "Click: a ball around the point." },
];

export const COMMANDS: readonly Command[] = [
  ...TOOLS.map(({ tool, name, key }) => ({
    keys: [key],
    says: name,
    run: (a: Actions) => a.tool(tool),
  })),
  { keys: ["1"], says: "Class: tumour", run: (a) => a.label(1) },
  { keys: ["2"], says: "Class: oedema", run: (a) => a.label(2) },
  { keys: ["["], says: "Tool's size smaller", run: (a) => a.size(-1) },
  { keys: ["]"], says: "Tool's size larger", run: (a) => a.size(1) },
  { keys: ["z", "Ctrl+z"], says: "Undo", run: (a) => a.undo() },
  { keys: ["y", "Ctrl+y", "Ctrl+Shift+z"], says: "Redo", run: (a) => a.redo() },
  { keys: ["Delete"], says: "Clear the whole mask", run: (a) => a.clear() },
  { keys: ["l"], says: "Load a prompt mask", run: (a) => a.loadMask() },
  { keys: ["k"], says: "Save the prompt mask", run: (a) => a.saveMask() },
  { keys: ["Shift+k"], says: "Save the synthesis", run: (a) => a.saveSynthesis() },
  { keys: ["Shift+o"], says: "Open another case", run: (a) => a.openOther() },
  { keys: ["p"], says: "Prompt on or off (A/B)", run: (a) => a.togglePrompt() },
  { keys: ["d"], says: "Difference map", run: (a) => a.toggleDifference() },
  { keys: ["o"], says: "Mask filled, outlined, hidden in this pane", run: (a) => a.toggleOverlay() },
  { keys: [","], says: "Overlay fainter", run: (a) => a.opacity(-1) },
  { keys: ["."], says: "Overlay stronger", run: (a) => a.opacity(1) },
  { keys: ["v"], says: "Outline of what is drawn, not seen", run: (a) => a.toggleEvidence() },
  { keys: ["m"], says: "Multiplanar or axial", run: (a) => a.multiplanar() },
  { keys: ["h"], says: "Crosshair on or off", run: (a) => a.crosshair() },
  { keys: ["r"], says: "Radiological or neurological", run: (a) => a.convention() },
  { keys: ["Shift+w"], says: "Reset every window", run: (a) => a.resetWindows() },
  { keys: ["+", "="], says: "Zoom in", run: (a) => a.zoom(1.25) },
  { keys: ["-"], says: "Zoom out", run: (a) => a.zoom(0.8) },
  { keys: ["0"], says: "Whole image", run: (a) => a.zoom(0) },
  { keys: ["ArrowLeft"], says: "Crosshair left", run: (a) => a.move(-1, 0, false) },
  { keys: ["ArrowRight"], says: "Crosshair right", run: (a) => a.move(1, 0, false) },
  { keys: ["ArrowUp"], says: "Crosshair up", run: (a) => a.move(0, 1, false) },
  { keys: ["ArrowDown"], says: "Crosshair down", run: (a) => a.move(0, -1, false) },
  { keys: ["Shift+ArrowLeft"], says: "Left, drawing", run: (a) => a.move(-1, 0, true) },
  { keys: ["Shift+ArrowRight"], says: "Right, drawing", run: (a) => a.move(1, 0, true) },
  { keys: ["Shift+ArrowUp"], says: "Up, drawing", run: (a) => a.move(0, 1, true) },
  { keys: ["Shift+ArrowDown"], says: "Down, drawing", run: (a) => a.move(0, -1, true) },
  { keys: ["PageUp"], says: "One slice up", run: (a) => a.slice(1) },
  { keys: ["PageDown"], says: "One slice down", run: (a) => a.slice(-1) },
  { keys: [" "], says: "Draw at the crosshair; a corner of box or contour", run: (a) => a.stamp(false) },
  { keys: ["Enter"], says: "Draw at the crosshair; fills a contour", run: (a) => a.stamp(true) },
  { keys: ["Escape"], says: "Take the stroke under way back", run: (a) => a.cancel() },
  { keys: ["?"], says: "This help", run: (a) => a.help() },
];

/** Calls commands by key, except where a field or a focused button wants the key itself. */
export function listen(actions: () => Actions | null): void {
  const byKey = new Map(COMMANDS.flatMap((command) => command.keys.map((key) => [key, command] as const)));
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.altKey || event.defaultPrevented || wants(target, event.key)) return;
    const command = byKey.get(nameOf(event));
    const now = actions();
    if (!command || !now) return;
    event.preventDefault();
    command.run(now);
  });
}

function nameOf(event: KeyboardEvent): string {
  const letter = event.key.length === 1 && event.key.toLowerCase() !== event.key.toUpperCase();
  const key = letter ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && (letter || event.key.length > 1) ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift}${key}`;
}

/** True where an element uses a key by itself. */
function wants(target: HTMLElement, key: string): boolean {
  if (target.closest("dialog")) return true;
  if (target instanceof HTMLInputElement) {
    if (target.type === "range") return key.startsWith("Arrow") || key.startsWith("Page") || key === "Home";
    return key !== "Escape";
  }
  if (target instanceof HTMLSelectElement) return true;
  return target instanceof HTMLButtonElement && (key === " " || key === "Enter");
}
