/** The stream of finished slices: 4 bytes length, a JSON header, then the slices' float32 values. */

import type { FrameHeader } from "./api";

export interface Frame extends FrameHeader {
  /** For each z of `slices` one axial slice, x fastest. */
  values: Float32Array;
}

const HEADER_LIMIT = 1 << 20;

/** Frames in the order they come; ends with the stream, throws where it breaks off inside a frame. */
export async function* frames(stream: ReadableStream<Uint8Array>): AsyncGenerator<Frame> {
  const source = new ByteSource(stream);
  for (;;) {
    const length = await source.take(4);
    if (!length) return;
    const n = new DataView(length.buffer).getUint32(0, true);
    if (n > HEADER_LIMIT) throw new Error("The server's stream is not in the expected form.");
    const header = JSON.parse(new TextDecoder().decode(await source.need(n))) as FrameHeader;
    const payload = await source.need(header.bytes);
    yield { ...header, values: new Float32Array(payload.buffer) };
  }
}

class ByteSource {
  private readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  private rest = new Uint8Array(0);

  constructor(stream: ReadableStream<Uint8Array>) {
    this.reader = stream.getReader();
  }

  async need(n: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = await this.take(n);
    if (!bytes) throw new Error("The server's stream broke off.");
    return bytes;
  }

  /** Exactly n bytes in a buffer of their own; null where the stream ended before the first. */
  async take(n: number): Promise<Uint8Array<ArrayBuffer> | null> {
    const out = new Uint8Array(n);
    let filled = 0;
    while (filled < n) {
      if (this.rest.length === 0) {
        const { value, done } = await this.reader.read();
        if (done) {
          if (filled === 0) return null;
          throw new Error("The server's stream broke off.");
        }
        this.rest = new Uint8Array(value);
        continue;
      }
      const part = this.rest.subarray(0, n - filled);
      out.set(part, filled);
      filled += part.length;
      this.rest = this.rest.subarray(part.length);
    }
    return out;
  }
}
