/** How bright the brain is in a result that comes in slice by slice. */

import type { Grid } from "./grid";

const BINS = 1024;
/** Brain is what is brighter than this, in parts of the brightest voxel. */
const BRAIN = 0.1;
/** What most of the brain stays below. */
const MOST = 0.95;

/** A histogram per slice, so that a slice that comes again replaces what it was. */
export class Brightness {
  private readonly counts: Uint32Array;

  /** @param values on the grid, in [0, 1] */
  constructor(
    private readonly values: Float32Array,
    private readonly grid: Grid,
  ) {
    this.counts = new Uint32Array(BINS * grid.shape[2]);
  }

  /** Counts slices again. */
  update(slices: readonly number[]): void {
    const { plane } = this.grid;
    for (const z of slices) {
      const counts = this.counts.subarray(z * BINS, (z + 1) * BINS).fill(0);
      for (const value of this.values.subarray(z * plane, (z + 1) * plane)) {
        if (value > 0) counts[Math.min(Math.floor(value * BINS), BINS - 1)]!++;
      }
    }
  }

  /** The level that most of the brain stays below; null where nothing has come yet. */
  level(): number | null {
    const all = new Float64Array(BINS);
    this.counts.forEach((count, i) => (all[i % BINS]! += count));
    let top = BINS - 1;
    while (top >= 0 && all[top] === 0) top--;
    if (top < 0) return null;
    const first = Math.ceil(BRAIN * (top + 1));
    let left = MOST * all.subarray(first).reduce((sum, count) => sum + count, 0);
    for (let bin = first; bin <= top; bin++) {
      left -= all[bin]!;
      if (left <= 0) return (bin + 1) / BINS;
    }
    return (top + 1) / BINS;
  }
}
