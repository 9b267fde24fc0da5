/** The prompt mask the user draws, and the history of its changes. */

import { type Box, crop, difference, type Grid, paste, union } from "./grid";

export const TUMOUR = 1;
export const OEDEMA = 2;
export type Label = 0 | 1 | 2;

/** One finished change of the mask: a box, its values before and after (x fastest). */
export interface Change {
  box: Box;
  before: Uint8Array;
  after: Uint8Array;
}

/**
 * Labels of every voxel. Tools write into `data` by `put` while a stroke is under way; `commit` ends
 * the stroke and gives what it changed.
 */
export class Mask {
  readonly data: Uint8Array;
  private readonly committed: Uint8Array;
  private touched: Box | null = null;

  constructor(readonly grid: Grid) {
    this.data = new Uint8Array(grid.size);
    this.committed = new Uint8Array(grid.size);
  }

  put(x: number, y: number, z: number, label: Label): void {
    const [nx, ny, nz] = this.grid.shape;
    if (x < 0 || y < 0 || z < 0 || x >= nx || y >= ny || z >= nz) return;
    const i = this.grid.index(x, y, z);
    if (this.data[i] === label) return;
    this.data[i] = label;
    const t = this.touched;
    if (!t) {
      this.touched = { x, y, z, nx: 1, ny: 1, nz: 1 };
    } else if (x < t.x || y < t.y || z < t.z || x >= t.x + t.nx || y >= t.y + t.ny || z >= t.z + t.nz) {
      this.touched = union(t, { x, y, z, nx: 1, ny: 1, nz: 1 });
    }
  }

  /** Replaces every label; part of the stroke under way. */
  replace(values: Uint8Array): void {
    this.data.set(values);
    this.touched = this.grid.whole;
  }

  /** What the stroke under way has touched so far. */
  get pending(): Box | null {
    return this.touched;
  }

  /** Ends the stroke: what it changed, or null where it changed nothing. */
  commit(): Change | null {
    const box = this.touched && difference(this.data, this.committed, this.grid, this.touched);
    this.touched = null;
    if (!box) return null;
    const before = crop(this.committed, this.grid, box);
    const after = crop(this.data, this.grid, box);
    paste(this.committed, this.grid, box, after);
    return { box, before, after };
  }

  /** Takes the stroke under way back; the box that was repainted. */
  abandon(): Box | null {
    const box = this.touched;
    if (box) paste(this.data, this.grid, box, crop(this.committed, this.grid, box));
    this.touched = null;
    return box;
  }

  /** Writes a box outside any stroke (undo, redo). */
  restore(box: Box, values: Uint8Array): void {
    paste(this.data, this.grid, box, values);
    paste(this.committed, this.grid, box, values);
  }

  get empty(): boolean {
    return this.data.every((label) => label === 0);
  }
}

/** Undo and redo: as many changes as fit into a number of steps and of bytes, the newest kept first. */
export class History {
  private readonly done: Change[] = [];
  private readonly undone: Change[] = [];

  constructor(
    private readonly steps = 200,
    private readonly bytes = 64 * 1024 * 1024,
  ) {}

  get canUndo(): boolean {
    return this.done.length > 0;
  }

  get canRedo(): boolean {
    return this.undone.length > 0;
  }

  push(change: Change): void {
    this.undone.length = 0;
    this.done.push(change);
    let held = this.done.reduce((sum, one) => sum + size(one), 0);
    while (this.done.length > 1 && (this.done.length > this.steps || held > this.bytes)) {
      held -= size(this.done.shift()!);
    }
  }

  /** Puts the newest change back into `mask`; the box it covers. */
  undo(mask: Mask): Box | null {
    const change = this.done.pop();
    if (!change) return null;
    this.undone.push(change);
    mask.restore(change.box, change.before);
    return change.box;
  }

  redo(mask: Mask): Box | null {
    const change = this.undone.pop();
    if (!change) return null;
    this.done.push(change);
    mask.restore(change.box, change.after);
    return change.box;
  }
}

function size(change: Change): number {
  return change.before.length + change.after.length;
}
