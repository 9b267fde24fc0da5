/** Where the time between a stroke's end and the first updated slice went, in milliseconds. */

import type { Frame } from "./frames";
import type { Box } from "./grid";

export interface Timing {
  /** Mask difference and compression, and the wait for an earlier stroke's headers. */
  page: number;
  /** The round trip less the server's own time. */
  network: number;
  queue: number;
  engine: number;
  /** The rest of the server's time: the prompt's preparation and putting slices back on the grid. */
  server: number;
  /** From the slice's arrival until a frame with it was drawn. */
  paint: number;
  total: number;
  slices: number;
}

/** Measures one stroke, from its end (by performance.now()) to its first painted slice. */
export class StrokeClock {
  private sent = 0;
  private came = 0;
  private frame: Frame | null = null;

  constructor(
    private readonly ended: number,
    private readonly box: Box,
  ) {}

  sending(): void {
    this.sent = performance.now();
  }

  /** True for the first frame with a slice of the stroke; others (of an earlier run) do not count. */
  arrived(frame: Frame): boolean {
    const { z, nz } = this.box;
    if (this.frame || !frame.images.includes("synthesis")) return false;
    if (!frame.slices.some((one) => one >= z && one < z + nz)) return false;
    this.frame = frame;
    this.came = performance.now();
    return true;
  }

  painted(): Timing {
    const now = performance.now();
    const { seconds, slices } = this.frame!;
    const ms = (s: number | null | undefined) => 1000 * (s ?? 0);
    const server = ms(seconds.server);
    // a run that was already under way can have begun before the stroke: its time before that is not the stroke's
    const engine = Math.min(ms(seconds.engine), server);
    const queue = Math.min(ms(seconds.queue), server - engine);
    return {
      page: this.sent - this.ended,
      network: Math.max(this.came - this.sent - server, 0),
      queue,
      engine,
      server: server - queue - engine,
      paint: now - this.came,
      total: now - this.ended,
      slices: slices.length,
    };
  }
}
