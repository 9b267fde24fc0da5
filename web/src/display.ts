/** What the synthesis pane shows: with the prompt, without it, or the difference of the two. */

import type { ResultName } from "./api";
import type { Pane } from "./pane";
import { DIVERGING, GREY, type Range } from "./texture";
import type { Viewer } from "./viewer";

export type Shown = ResultName | "difference";

const INITIAL: Record<Shown, Range> = {
  synthesis: { min: 0, max: 1 },
  plain: { min: 0, max: 1 },
  difference: { min: -0.3, max: 0.3 },
};

export class Display {
  shown: Shown = "synthesis";
  private readonly slice: Float32Array;
  private readonly kept: Record<"values" | "difference", Range> = {
    values: INITIAL.synthesis,
    difference: INITIAL.difference,
  };

  constructor(
    private readonly viewer: Viewer,
    readonly pane: Pane,
    private readonly results: Record<ResultName, Float32Array>,
  ) {
    this.slice = new Float32Array(pane.grid.plane);
    this.pane.range = INITIAL.synthesis;
    this.show("synthesis");
  }

  show(shown: Shown): void {
    this.kept[this.shown === "difference" ? "difference" : "values"] = this.pane.range;
    this.shown = shown;
    const differs = shown === "difference";
    this.pane.initial = INITIAL[shown];
    this.pane.range = this.kept[differs ? "difference" : "values"];
    // NiiVue's own volume keeps to what is shown, for whoever reads it there
    if (!differs) this.pane.nv.volumes[0]!.img = this.results[shown];
    this.pane.show(differs ? (z) => this.differenceOf(z) : (z) => this.sliceOf(shown, z), differs ? DIVERGING : GREY);
    this.viewer.draw(this.pane);
  }

  /** Slices of a result changed; resolves when what can be seen of it is painted. */
  changed(images: readonly ResultName[], slices: readonly number[]): Promise<void> {
    const seen = this.shown === "difference" || images.includes(this.shown);
    return seen ? this.viewer.valuesChanged(this.pane, slices) : Promise.resolve();
  }

  /** The middle of the difference stays at zero, whatever the window. */
  centre(): void {
    if (this.shown !== "difference") return;
    const reach = Math.max((this.pane.range.max - this.pane.range.min) / 2, 1e-3);
    this.pane.setRange({ min: -reach, max: reach });
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
