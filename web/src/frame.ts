/** The frame around a pane: its title, what it shows, and its window. */

import { make, press } from "./dom";
import type { Grid } from "./grid";
import { type Overlay, OVERLAYS, Pane, type PaneName } from "./pane";
import type { Display, Shown } from "./display";

const TITLES: Record<PaneName, string> = { t1: "T1", t2: "T2", synthesis: "Synthetic T1ce" };
const OVERLAY_NAMES: Record<Overlay, string> = { fill: "Filled", outline: "Outlined", none: "Hidden" };
const SHOWN: readonly [Shown, string, string][] = [
  ["synthesis", "Prompt", "With the prompt (P switches)"],
  ["plain", "No prompt", "As if nothing were drawn (P switches)"],
  ["difference", "Difference", "With minus without the prompt (D)"],
];

export class PaneFrame {
  readonly root = make("section", { class: "pane" });
  readonly pane: Pane;
  private readonly head = make("div", { class: "pane-head" });
  private readonly width: HTMLInputElement;
  private readonly level: HTMLInputElement;
  private readonly choices = new Map<Shown, HTMLButtonElement>();
  private readonly overlay = make("select", { title: "How the mask is shown here (O)" });
  private readonly legend = make("div", { class: "legend", hidden: true });

  /**
   * @param changed called when the window was set here
   * @param overlaid called when another overlay was chosen here
   */
  constructor(
    name: PaneName,
    grid: Grid,
    changed: (pane: Pane) => void,
    overlaid: (pane: Pane, overlay: Overlay) => void,
  ) {
    const title = TITLES[name];
    const box = make("div", { class: "canvas-box" });
    this.pane = new Pane(name, title, grid, box);
    this.pane.over.setAttribute("aria-label", `${title}: drawing area`);
    this.root.setAttribute("aria-label", title);
    this.root.dataset["pane"] = name;
    box.append(this.legend, this.pane.over);
    this.head.append(make("h2", {}, title));
    const field = (says: string) => make("input", { type: "number", step: "any", "aria-label": `${title}: ${says}` });
    this.width = field("window width");
    this.level = field("window level");
    const set = () => {
      const [width, level] = [this.width.valueAsNumber, this.level.valueAsNumber]; // NaN where empty
      if (!(width > 0) || !Number.isFinite(level)) return this.showRange();
      this.pane.setRange({ min: level - width / 2, max: level + width / 2 });
      changed(this.pane);
    };
    this.width.addEventListener("change", set);
    this.level.addEventListener("change", set);
    const reset = make("button", { type: "button", title: "Reset this window (all: Shift+W)" }, "Reset");
    reset.setAttribute("aria-label", `${title}: reset the window`);
    reset.addEventListener("click", () => {
      this.pane.setRange({ ...this.pane.initial });
      changed(this.pane);
    });
    this.overlay.setAttribute("aria-label", `${title}: overlay of the mask`);
    this.overlay.append(...OVERLAYS.map((one) => make("option", { value: one }, OVERLAY_NAMES[one])));
    this.overlay.addEventListener("change", () => {
      overlaid(this.pane, this.overlay.value as Overlay);
      this.pane.over.focus({ preventScroll: true });
    });
    const foot = make("div", { class: "pane-foot" });
    foot.append(make("label", {}, "W", this.width), make("label", {}, "L", this.level), reset);
    foot.append(make("label", {}, "Mask", this.overlay));
    this.root.append(this.head, box, foot);
  }

  /** Adds the choice of what is shown (the synthesis pane). */
  addChoices(choose: (shown: Shown) => void): void {
    const group = make("div", { class: "segments", role: "group", "aria-label": "What is shown" });
    for (const [shown, says, title] of SHOWN) {
      const button = make("button", { type: "button", title, id: `show-${shown}` }, says);
      button.addEventListener("click", () => choose(shown));
      this.choices.set(shown, button);
      group.append(button);
    }
    this.head.append(group);
  }

  showChoice(display: Display): void {
    for (const [shown, button] of this.choices) press(button, shown === display.shown);
    this.legend.hidden = display.shown !== "difference";
    const reach = this.pane.range.max;
    const scale = make("b", {}, ...[-reach, 0, reach].map((v) => make("span", {}, signed(v))));
    this.legend.replaceChildren("With minus without the prompt", make("i"), scale);
  }

  showOverlay(): void {
    this.overlay.value = this.pane.overlay;
  }

  showRange(): void {
    const { min, max } = this.pane.range;
    const digits = Math.max(0, 3 - Math.ceil(Math.log10(Math.max(max - min, 1e-6))));
    this.width.value = (max - min).toFixed(Math.min(digits, 6));
    this.level.value = ((max + min) / 2).toFixed(Math.min(digits, 6));
  }
}

function signed(value: number): string {
  return value === 0 ? "0" : `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
}
