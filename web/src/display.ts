/** What the synthesis pane shows: with the prompt, without it, or the difference of the two. */

import type { ResultName } from "./api";
import { Brightness } from "./brightness";
import type { Overlay, Pane } from "./pane";
import { DIVERGING, GREY, type Range } from "./texture";
import type { Viewer } from "./viewer";

export type Shown = ResultName | "difference";

type Kind = "values" | "difference";

/** The window's top, in times of what most of the brain stays below: room for what a prompt enhances. */
const HEADROOM = 2;

export class Display {
  shown: Shown = "synthesis";
  private readonly slice: Float32Array;
  private readonly initial: Record<Kind, Range> = {
    values: { min: 0, max: 1 },
    difference: { min: -0.3, max: 0.3 },
  };
  private readonly kept: Record<Kind, Range> = { ...this.initial };
  /** The mask must cover neither what is looked for nor what did not change. */
  private readonly overlays: Record<Kind, Overlay> = { values: "outline", difference: "none" };
  private readonly brightness: Brightness;
  private complete = false;

  constructor(
    private readonly viewer: Viewer,
    readonly pane: Pane,
    private readonly results: Record<ResultName, Float32Array>,
  ) {
    this.slice = new Float32Array(pane.grid.plane);
    this.brightness = new Brightness(results.plain, pane.grid);
    this.pane.range = this.initial.values;
    this.show("synthesis");
  }

  show(shown: Shown): void {
    this.kept[this.kind] = this.pane.range;
    this.shown = shown;
    const differs = shown === "difference";
    this.pane.initial = this.initial[this.kind];
    this.pane.range = this.kept[this.kind];
    this.viewer.setOverlay(this.pane, this.overlays[this.kind]);
    // NiiVue's own volume keeps to what is shown, for whoever reads it there
    if (!differs) this.pane.nv.volumes[0]!.img = this.results[shown];
    this.pane.show(differs ? (z) => this.differenceOf(z) : (z) => this.sliceOf(shown, z), differs ? DIVERGING : GREY);
    this.viewer.draw(this.pane);
  }

  /** Slices of a result changed; resolves when what can be seen of it is painted. */
  changed(images: readonly ResultName[], slices: readonly number[]): Promise<void> {
    if (images.includes("plain")) this.brightness.update(slices);
    const seen = this.shown === "difference" || images.includes(this.shown);
    return seen ? this.viewer.valuesChanged(this.pane, slices) : Promise.resolve();
  }

  /**
   * Fits the window to what has come of the synthesis without a prompt, unless somebody has set it: how
   * bright that is depends on the scan's brightest voxel, and [0, 1] may leave a brain in the dark. It
   * is fitted again with every slice until all are there. Whether it changed.
   */
  fit(complete: boolean): boolean {
    const level = this.complete ? null : this.brightness.level();
    if (level === null) return false;
    this.complete = complete;
    const { values } = this.initial;
    const max = Math.min(HEADROOM * level, 1);
    if (max === values.max) return false;
    this.initial.values = { min: 0, max };
    if (this.kept.values === values) this.kept.values = this.initial.values;
    if (this.kind === "values") {
      this.pane.initial = this.initial.values;
      if (this.pane.range === values) this.pane.setRange(this.initial.values);
    }
    this.viewer.draw(this.pane);
    return true;
  }

  /** Sets how the mask is shown over this kind of image. */
  setOverlay(overlay: Overlay): void {
    this.overlays[this.kind] = overlay;
    this.viewer.setOverlay(this.pane, overlay);
  }

  /** The middle of the difference stays at zero, whatever the window. */
  centre(): void {
    if (this.shown !== "difference") return;
    const reach = Math.max((this.pane.range.max - this.pane.range.min) / 2, 1e-3);
    this.pane.setRange({ min: -reach, max: reach });
  }

  private get kind(): Kind {
    return this.shown === "difference" ? "difference" : "values";
  }

  private sliceOf(name: ResultName, z: number): Float32Array {
    const { plane } = this.pane.grid;
    return this.results[name].subarray(z * plane, (z + 1) * plane);
  }

  private differenceOf(z: number): Float32Array {
    const [a, b] = [this.sliceOf("synthesis", z), this.sliceOf("plain", z)];
    for (let i = 0; i < this.slice.length; i++) this.slice[i] = a[i]! - b[i]!;
    return this.slice;
  }
}
