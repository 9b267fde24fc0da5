/** What is drawn, not seen: its outline over the synthesis and its volume, on demand. */

import { type Api, type Evidence, Refused } from "./api";
import { byId, press } from "./dom";
import type { Vec3 } from "./grid";
import type { Inside } from "./hover";
import type { Loop } from "./loop";
import type { Viewer } from "./viewer";

export class EvidenceView {
  on = false;
  /** As the server measured it last; null before. */
  found: Evidence | null = null;
  private measured = "";
  private asking = false;

  constructor(
    private readonly loop: Loop,
    private readonly api: Api,
    private readonly viewer: Viewer,
    private readonly failed: (error: unknown) => void,
  ) {
    this.show();
  }

  toggle(): void {
    this.on = !this.on;
    this.measured = "";
    this.show();
    this.follow();
    this.viewer.draw();
  }

  /** Measures again once the synthesis has followed a stroke. */
  follow(): void {
    if (this.on && !this.asking && this.loop.phase === "live" && this.measured !== this.now) void this.measure();
  }

  /** Whether the prompt alone brightens a voxel of the brain; null while there is nothing to show. */
  get inside(): Inside | null {
    const { found } = this;
    if (!this.on || !found) return null;
    const { synthesis, plain } = this.loop.results;
    const [first] = this.viewer.panes.values();
    const [nx, ny] = this.viewer.grid.shape;
    const least = found.threshold * found.brain_level;
    return (p: Vec3) => {
      const i = p[0] + nx * (p[1] + ny * p[2]);
      return synthesis[i]! - plain[i]! > least && first!.value(p) !== 0;
    };
  }

  private async measure(): Promise<void> {
    this.asking = true;
    this.show();
    try {
      await this.loop.settled("run");
      const { now } = this;
      this.found = await this.api.evidence(this.loop.session.id);
      this.measured = now;
    } catch (error) {
      if (this.loop.closed) return;
      const unfinished = error instanceof Refused && error.status === 409; // a stroke came between
      if (this.loop.phase === "live" && !unfinished) {
        this.on = false;
        this.failed(error);
      }
    } finally {
      this.asking = false;
    }
    this.show();
    this.viewer.draw();
    this.follow();
  }

  private get now(): string {
    return `${this.loop.session.id} ${this.loop.revision}`;
  }

  private show(): void {
    press(byId("evidence"), this.on);
    const current = this.found && this.measured === this.now && !this.asking;
    const text = current ? `${this.found!.drawn_ml.toFixed(1)} ml are drawn, not seen` : "measuring…";
    byId("evidence-text").textContent = this.on ? text : "";
  }
}
