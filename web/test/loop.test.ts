import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { type Api, Refused, type Session, type StrokeQuery, Unreachable } from "../src/api";
import { Loop, NEEDS_TOKEN } from "../src/loop";
import { Mask } from "../src/mask";
import { frameOf, gridOf, streamOf } from "./helpers";

const SHAPE = [5, 4, 3] as const;

/** A server as the loop sees it. */
class FakeServer {
  readonly strokes: { query: StrokeQuery; payload: Uint8Array | null }[] = [];
  revision = 0;
  opened = 0;
  closed: string[] = [];
  /** What the next requests meet, first come first. */
  readonly trouble: Error[] = [];

  session(id = "one"): Session {
    const grid = gridOf();
    return {
      id, shape: [...SHAPE], affine: grid.affine, spacing_mm: grid.spacing_mm, revision: this.revision,
    } as unknown as Session; // prettier-ignore
  }

  readonly api = {
    status: async () => this.meet(),
    session: async () => (this.meet(), this.session()),
    open: async () => (this.meet(), (this.revision = 0), this.session(`again ${++this.opened}`)),
    close: (id: string) => void this.closed.push(id),
    stroke: async (_: string, query: StrokeQuery, payload: Uint8Array<ArrayBuffer> | null) => {
      this.meet();
      if (query.box && query.revision !== this.revision + 1) {
        throw new Refused(409, "OutOfStep", "out of step", this.revision);
      }
      this.revision = query.revision;
      this.strokes.push({ query, payload });
      const serial = this.strokes.length;
      const header = { serial, revision: this.revision, images: [], slices: [], left: 0, seconds: { server: 0 } };
      return new Response(streamOf(frameOf({ ...header, state: "done", error: null })));
    },
  } as unknown as Api;

  private meet(): void {
    const error = this.trouble.shift();
    if (error) throw error;
  }
}

function started() {
  const server = new FakeServer();
  const mask = new Mask(gridOf());
  const told = vi.fn();
  const host = { visible: () => 1, changed: () => Promise.resolve(), told };
  const loop = new Loop(server.api, { kind: "case" }, server.session(), mask.grid, mask, host);
  const draw = (x: number, label: 0 | 1 | 2 = 1) => {
    mask.put(x, 1, 1, label);
    const change = mask.commit();
    if (change) loop.edited(change.box, performance.now());
  };
  return { server, mask, loop, draw, told };
}

const gone = new Refused(404, "SessionGone", "gone", null);
const away = new Unreachable("away");

describe("the loop", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("sends only the box that differs, with the revision after it", async () => {
    const { server, loop, draw } = started();
    draw(2);
    await vi.runAllTimersAsync();
    expect(server.strokes).toHaveLength(1);
    expect(server.strokes[0]!.query).toEqual({
      revision: 1, since: 0, first: 1, box: { x: 2, y: 1, z: 1, nx: 1, ny: 1, nz: 1 },
    }); // prettier-ignore
    expect(loop.busy).toBe(false);
    expect(loop.serial).toBe(1);
  });

  it("sends nothing for a change that was undone before it could be sent", async () => {
    const { server, loop, draw } = started();
    draw(1); // under way
    draw(2);
    draw(2, 0);
    await vi.runAllTimersAsync();
    expect(server.strokes).toHaveLength(1);
    expect(loop.busy).toBe(false);
  });

  it("sends the whole mask where the server holds another one", async () => {
    const { server, loop, draw } = started();
    server.revision = 7;
    draw(2);
    await vi.runAllTimersAsync();
    expect(server.strokes).toHaveLength(1);
    expect(server.strokes[0]!.query.revision).toBe(8);
    expect(server.strokes[0]!.query.box).toEqual(gridOf().whole);
    expect(loop.revision).toBe(8);
  });

  it("waits while the server is away, and loses nothing", async () => {
    const { server, loop, draw, mask } = started();
    server.trouble.push(away, away, away);
    draw(2);
    await vi.advanceTimersByTimeAsync(500);
    expect(loop.phase).toBe("offline");
    draw(3); // drawn meanwhile
    await vi.advanceTimersByTimeAsync(10_000);
    expect(loop.phase).toBe("live");
    expect(server.strokes.at(-1)!.query.box).toMatchObject({ x: 2, nx: 2 });
    expect(mask.data.filter((label) => label === 1)).toHaveLength(2);
    expect(loop.busy).toBe(false);
  });

  it("makes a session again that the server has lost, and sends it the whole mask", async () => {
    const { server, loop, draw } = started();
    draw(1);
    await vi.runAllTimersAsync();
    server.trouble.push(gone);
    const session = vi.spyOn(server.api, "session").mockRejectedValueOnce(gone);
    draw(2);
    await vi.advanceTimersByTimeAsync(5000);
    expect(session).toHaveBeenCalled();
    expect(loop.session.id).toBe("again 1");
    expect(server.strokes.at(-1)!.query.box).toEqual(gridOf().whole);
    expect(loop.phase).toBe("live");
  });

  it("waits for a token where the server that was started again asks for another", async () => {
    const { server, loop, draw } = started();
    const denied = new Refused(401, "TokenNeeded", "a token", null);
    server.trouble.push(away, denied, denied);
    draw(2);
    await vi.advanceTimersByTimeAsync(1500);
    expect(loop.phase).toBe("offline");
    expect(loop.message).toBe(NEEDS_TOKEN);
    await vi.advanceTimersByTimeAsync(5000);
    expect(loop.phase).toBe("live");
    expect(server.strokes).toHaveLength(1);
  });

  it("tries again by itself where there is no room, and stops at what cannot be helped", async () => {
    const { server, loop, draw } = started();
    server.trouble.push(new Refused(429, "SessionsFull", "full", null));
    draw(2);
    await vi.advanceTimersByTimeAsync(5000);
    expect(server.strokes).toHaveLength(1);
    server.trouble.push(new Refused(422, "GeometryError", "off the grid", null));
    draw(3);
    await vi.advanceTimersByTimeAsync(5000);
    expect(loop.phase).toBe("failed");
    expect(loop.message).toBe("off the grid");
    await expect(loop.settled("sent")).rejects.toThrow("off the grid");
    loop.run(); // Try again
    await vi.advanceTimersByTimeAsync(5000);
    expect(server.strokes).toHaveLength(2);
  });

  it("says that it is closed to nobody, and frees the session", async () => {
    const { server, loop, draw, told } = started();
    loop.close();
    told.mockClear();
    draw(2);
    await vi.advanceTimersByTimeAsync(5000);
    expect(server.strokes).toHaveLength(0);
    expect(server.closed).toEqual(["one"]);
  });
});
