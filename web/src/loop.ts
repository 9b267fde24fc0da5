/**
 * The loop of one session: changes of the mask go out one after another, finished slices come back.
 *
 * Only what differs from the server's copy of the mask is sent. Nothing is lost when the server is
 * away: changes wait, the session is made again if need be, and the whole mask is sent to it.
 */

import { type Api, gridOf, Refused, type ResultName, type Session, type Source, Unreachable } from "./api";
import { frames, type Frame } from "./frames";
import { type Box, crop, difference, type Grid, paste, union } from "./grid";
import type { Mask } from "./mask";
import { gunzip, gzip, labels } from "./nifti";
import { StrokeClock, type Timing } from "./timing";

export type Phase = "live" | "offline" | "failed";

/** What the loop tells the page. */
export interface LoopHost {
  /** The axial slice that is visible. */
  visible(): number;
  /** Slices were written into the arrays; resolves when they (or what is visible of them) are painted. */
  changed(images: readonly ResultName[], slices: readonly number[]): Promise<void>;
  /** Phase, counters or timing changed. */
  told(): void;
}

const POLL_MS = 1000;
const CONFLICTS = 5;
export const NEEDS_TOKEN = "The server asks for its token: open the address that it printed, in this tab too.";

/** The server or the session is gone for now, or was started again. */
const isAway = (error: unknown) =>
  error instanceof Unreachable || (error instanceof Refused && (error.sessionGone || error.tokenNeeded));

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export class Loop {
  readonly results: Record<ResultName, Float32Array>;
  revision: number;
  serial = 0;
  left = 0;
  phase: Phase = "live";
  message = "";
  timing: Timing | null = null;
  closed = false;

  private readonly sent: Uint8Array;
  private unsent: Box | null = null;
  private unsentSince: number | null = null;
  private wholeMask = false;
  private wantsRun = false;
  private pumping = false;
  private held = false;
  private conflicts = 0;
  private stream: object | null = null;

  constructor(
    private readonly api: Api,
    readonly source: Source,
    public session: Session,
    readonly grid: Grid,
    private readonly mask: Mask,
    private readonly host: LoopHost,
  ) {
    this.revision = session.revision;
    this.sent = new Uint8Array(mask.data);
    this.results = { synthesis: new Float32Array(grid.size), plain: new Float32Array(grid.size) };
  }

  /** Something is unsent, under way or waits for the server; a failure waits for the user and is not busy. */
  get busy(): boolean {
    if (this.phase === "failed") return this.pumping || this.stream !== null;
    return this.unsettled || this.wantsRun || this.held || this.stream !== null || this.phase === "offline";
  }

  /** The mask changed inside a box, at a time by performance.now(). */
  edited(box: Box, at: number): void {
    this.unsent = union(this.unsent, box);
    this.unsentSince ??= at;
    void this.pump();
  }

  /** Goes on with whatever is still to be run: the first synthesis, and after a failure. */
  run(): void {
    this.phase = "live";
    this.message = "";
    this.wantsRun = true;
    this.host.told();
    void this.pump();
  }

  /** Replaces the server's mask by a file; the labels on the grid, which are then the server's. */
  async loadPrompt(file: Blob, meaning: string): Promise<Uint8Array> {
    if (this.phase === "offline") throw new Error(this.message);
    await this.hold();
    try {
      this.revision = (await this.api.putPrompt(this.session.id, file, meaning)).revision;
      this.wholeMask = true; // until the page holds what the server holds
      const now = labels(await gunzip(await this.api.image(this.session.id, "prompt")), this.grid);
      this.sent.set(now);
      this.wholeMask = false;
      return now;
    } catch (error) {
      this.noticed(error);
      throw error;
    } finally {
      this.held = false;
      if (this.phase === "live") this.run();
    }
  }

  /** Resolves when the server has every change, or has also run them; rejects where the loop has stopped before. */
  async settled(until: "sent" | "run"): Promise<void> {
    while (until === "run" ? this.busy || this.phase === "failed" : this.unsettled) {
      if (this.closed || this.phase !== "live") throw new Error(this.message);
      await pause(20);
    }
  }

  /** A change that the server does not have yet. */
  private get unsettled(): boolean {
    return this.unsent !== null || this.wholeMask || this.pumping;
  }

  /** A request outside the loop failed: where the server or the session is gone, the loop sees to it. */
  noticed(error: unknown): void {
    if (isAway(error)) this.broken(error);
  }

  /** No more requests, nothing more is told. */
  close(): void {
    this.closed = true;
    this.stream = null;
    this.api.close(this.session.id);
  }

  /** Keeps strokes back, once the one under way is through. */
  private async hold(): Promise<void> {
    this.held = true;
    while (this.pumping) await pause(5);
  }

  private async pump(): Promise<void> {
    if (this.pumping || this.held || this.closed || this.phase !== "live") return;
    this.pumping = true;
    try {
      while (!this.closed && !this.held && this.phase === "live" && (await this.sendOne()));
    } finally {
      this.pumping = false;
      this.host.told();
    }
  }

  /** Sends what differs, or an empty stroke where one is wanted; false when there was nothing to send. */
  private async sendOne(): Promise<boolean> {
    const whole = this.wholeMask;
    const box = whole ? this.grid.whole : this.unsent && difference(this.mask.data, this.sent, this.grid, this.unsent);
    const clock = box && new StrokeClock(this.unsentSince ?? performance.now(), box);
    this.unsent = null;
    this.unsentSince = null;
    if (!box && !this.wantsRun) return false;
    this.wantsRun = false;
    const values = box && crop(this.mask.data, this.grid, box);
    const payload = values && gzip(values);
    try {
      const revision = this.revision + (box ? 1 : 0);
      clock?.sending();
      const query = { revision, since: this.serial, first: this.host.visible(), box };
      const response = await this.api.stroke(this.session.id, query, payload);
      this.revision = revision;
      this.conflicts = 0;
      if (box && values) {
        paste(this.sent, this.grid, box, values);
        if (whole) this.wholeMask = false;
      }
      void this.receive(response, clock);
      return true;
    } catch (error) {
      this.unsent = union(this.unsent, box);
      this.wantsRun = true;
      return this.afterRefusal(error);
    }
  }

  /** True where the stroke is to be tried again at once. */
  private async afterRefusal(error: unknown): Promise<boolean> {
    if (error instanceof Refused && error.status === 409 && error.revision !== null && ++this.conflicts < CONFLICTS) {
      this.revision = error.revision;
      this.wholeMask = true;
      return true;
    }
    if (error instanceof Refused && (error.status === 429 || error.status === 503)) {
      await pause(POLL_MS);
      return true;
    }
    this.broken(error);
    return false;
  }

  private async receive(response: Response, clock: StrokeClock | null): Promise<void> {
    const mine = {};
    this.stream = mine;
    let end: Frame | null = null;
    try {
      for await (const frame of frames(response.body!)) {
        if (this.stream !== mine) continue; // a newer stream carries the rest, and all of this again
        this.take(frame, clock);
        if (frame.state !== "running") end = frame;
      }
    } catch (error) {
      if (this.stream !== mine) return;
      this.stream = null;
      this.broken(new Unreachable(String(error)));
      return;
    }
    if (this.stream !== mine) return;
    this.stream = null;
    if (!end) this.broken(new Unreachable("The server's stream ended early."));
    else if (end.state === "failed") this.broken(new Error(end.error ?? "The synthesis failed."));
    else if (end.state === "superseded") await this.takeOverAgain();
    this.host.told();
  }

  private take(frame: Frame, clock: StrokeClock | null): void {
    const { plane } = this.grid;
    frame.slices.forEach((z, i) => {
      const slice = frame.values.subarray(i * plane, (i + 1) * plane);
      for (const name of frame.images) this.results[name].set(slice, z * plane);
    });
    this.serial = Math.max(this.serial, frame.serial);
    this.left = frame.left;
    if (frame.slices.length > 0) {
      const painted = this.host.changed(frame.images, frame.slices);
      if (clock?.arrived(frame)) {
        void painted.then(() => {
          this.timing = clock.painted();
          this.host.told();
        });
      }
    }
    this.host.told();
  }

  /** Superseded by no stroke of this page (another client's): goes on by itself. */
  private async takeOverAgain(): Promise<void> {
    if (this.pumping || this.held) return;
    this.wantsRun = true;
    await pause(POLL_MS / 4);
    void this.pump();
  }

  private broken(error: unknown): void {
    if (this.closed || this.phase === "offline") return;
    this.stream = null;
    if (isAway(error)) {
      this.phase = "offline";
      this.message = "The server does not answer.";
      if (error instanceof Refused) this.message = error.tokenNeeded ? NEEDS_TOKEN : "The session has expired.";
      void this.recover();
    } else {
      this.phase = "failed";
      this.message = error instanceof Error ? error.message : String(error);
    }
    this.host.told();
  }

  /** Waits for the server, makes the session again where it is gone, and goes on. */
  private async recover(): Promise<void> {
    while (!this.closed) {
      try {
        await this.api.status(5 * POLL_MS);
        await this.api.session(this.session.id);
        break;
      } catch (error) {
        if (error instanceof Refused && error.sessionGone) {
          if (await this.reopen()) break;
          if (this.phase !== "offline") return;
        } else if (error instanceof Refused && error.tokenNeeded) {
          this.tell(NEEDS_TOKEN);
        } else if (!(error instanceof Unreachable) && !(error instanceof Refused && error.status >= 500)) {
          this.fail(error);
          return;
        }
      }
      await pause(POLL_MS);
    }
    this.unsentSince = null; // the time away is no stroke's
    if (!this.closed) this.run();
  }

  private tell(message: string): void {
    if (this.message === message) return;
    this.message = message;
    this.host.told();
  }

  private async reopen(): Promise<boolean> {
    try {
      const session = await this.api.open(this.source);
      if (this.closed) this.api.close(session.id);
      if (!gridOf(session).same(this.grid)) {
        this.api.close(session.id);
        throw new Error("The server now holds another image; open it as a new case.");
      }
      this.session = session;
      this.revision = session.revision;
      this.serial = 0;
      this.wholeMask = true;
      return true;
    } catch (error) {
      const later = error instanceof Unreachable || (error instanceof Refused && [401, 429, 503].includes(error.status));
      if (!later) this.fail(error);
      return false;
    }
  }

  private fail(error: unknown): void {
    this.phase = "failed";
    this.message = error instanceof Error ? error.message : String(error);
    this.host.told();
  }
}
