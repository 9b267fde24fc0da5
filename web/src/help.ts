/** The help overlay, made from the table of commands. */

import { COMMANDS } from "./commands";
import { byId, make } from "./dom";

const KEY_NAMES: Record<string, string> = {
  " ": "Space",
  ArrowLeft: "←",
  ArrowRight: "→",
  ArrowUp: "↑",
  ArrowDown: "↓",
  PageUp: "Page Up",
  PageDown: "Page Down",
};

function written(key: string): Node[] {
  const parts = key === "+" ? ["+"] : key.split("+");
  return parts.map((part) => make("kbd", {}, KEY_NAMES[part] ?? (part.length === 1 ? part.toUpperCase() : part)));
}

export function showHelp(): void {
  const list = make("dl");
  for (const { keys, says } of COMMANDS) {
    const term = make("dt");
    keys.forEach((key, i) => term.append(...(i > 0 ? [" or "] : []), ...written(key)));
    list.append(term, make("dd", {}, says));
  }
  const mouse = make(
    "p",
    {},
    "Draw in any pane; the synthesis follows. Right button: erases (navigate: window). Wheel: slices. ",
    "Ctrl and wheel: zoom. Middle button: moves the image. One finger draws, two move and zoom; once a pen is ",
    "used, fingers draw no more.",
  );
  byId("help-body").replaceChildren(mouse, list);
  byId<HTMLDialogElement>("help-dialog").showModal();
}
