/** What changes the mask: strokes, undo and redo, clear, load. Each change is shown, remembered and sent. */

import type { Box } from "./grid";
import type { Loop } from "./loop";
import { History, type Mask } from "./mask";
import type { Pane } from "./pane";
import type { Viewer } from "./viewer";

export class Editor {
  readonly history = new History();
  /** Nothing may be drawn while a mask is being loaded. */
  locked = false;
  /** The mask was changed since it was last saved or loaded. */
  unsaved = false;

  constructor(
    readonly mask: Mask,
    private readonly viewer: Viewer,
    private readonly loop: Loop,
    private readonly told: () => void,
  ) {}

  /** Shows what the stroke under way has drawn so far, in its own pane (and in the others if they are fast). */
  preview(pane: Pane): void {
    const box = this.mask.pending;
    if (box) this.viewer.maskChanged(box, pane);
  }

  /** Ends the stroke under way. */
  finish(): void {
    const ended = performance.now();
    const change = this.mask.commit();
    if (!change) return;
    this.history.push(change);
    this.changed(change.box, ended);
  }

  /** Takes the stroke under way back. */
  abandon(): void {
    const box = this.mask.abandon();
    if (box) this.viewer.maskChanged(box);
  }

  undo(): void {
    this.step(() => this.history.undo(this.mask));
  }

  redo(): void {
    this.step(() => this.history.redo(this.mask));
  }

  clear(): void {
    if (this.locked) return;
    this.abandon();
    this.mask.replace(new Uint8Array(this.mask.grid.size));
    this.finish();
  }

  /** Replaces the mask by a label map from a file; one undoable step. */
  async load(file: File, meaning: string): Promise<void> {
    if (this.locked) return;
    this.abandon();
    this.locked = true;
    this.told();
    try {
      this.mask.replace(await this.loop.loadPrompt(file, meaning));
      this.finish();
      this.unsaved = false;
    } finally {
      this.locked = false;
      this.told();
    }
  }

  /** Replaces the mask by one that a page before this left; no step to undo. */
  restore(labels: Uint8Array): void {
    const ended = performance.now();
    this.mask.replace(labels);
    const change = this.mask.commit();
    if (change) this.changed(change.box, ended);
  }

  private step(move: () => Box | null): void {
    if (this.locked) return;
    const ended = performance.now();
    this.abandon();
    const box = move();
    if (box) this.changed(box, ended);
  }

  private changed(box: Box, ended: number): void {
    this.unsaved = true;
    this.viewer.maskChanged(box);
    this.loop.edited(box, ended);
    this.told();
  }
}
