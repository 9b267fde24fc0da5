import { describe, expect, it } from "vitest";

import { type Frame, frames } from "../src/frames";
import { frameOf, streamOf } from "./helpers";

async function all(stream: ReadableStream<Uint8Array>): Promise<Frame[]> {
  const found: Frame[] = [];
  for await (const frame of frames(stream)) found.push(frame);
  return found;
}

const ONE = frameOf({ serial: 1, slices: [3] }, Float32Array.of(1, 2));
const TWO = frameOf({ serial: 2, slices: [], state: "done" });

describe("frames", () => {
  it("come out however the stream was cut", async () => {
    const whole = new Uint8Array([...ONE, ...TWO]);
    for (const size of [1, 3, 7, 64, whole.length]) {
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < whole.length; at += size) chunks.push(whole.slice(at, at + size));
      const found = await all(streamOf(...chunks));
      expect(found.map((frame) => frame.serial)).toEqual([1, 2]);
      expect([...found[0]!.values]).toEqual([1, 2]);
      expect(found[1]!.values.length).toBe(0);
    }
  });

  it("end with the stream, and fail where it breaks off inside one", async () => {
    expect(await all(streamOf())).toEqual([]);
    for (const end of [2, 10, ONE.length - 1]) {
      await expect(all(streamOf(ONE.slice(0, end)))).rejects.toThrow("broke off");
    }
  });

  it("with a header beyond measure are refused", async () => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setUint32(0, 1 << 30, true);
    await expect(all(streamOf(bytes))).rejects.toThrow("not in the expected form");
  });
});
