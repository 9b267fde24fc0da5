/** The server's HTTP interface, one method per request. Errors are thrown as one of the classes below. */

import { joined } from "./fixes";
import { Grid, type Box } from "./grid";
import type { components } from "./schema"; // generated from the server's description: make types

type Schemas = components["schemas"];
export type Status = Schemas["Status"];
export type Session = Schemas["SessionInfo"];
export type Warning = Schemas["WarningInfo"];
export type Evidence = Schemas["EvidenceInfo"];
export type Folder = Schemas["Folder"];
export type Labels = Schemas["DrawnLabels"];
export type FrameHeader = Schemas["FrameHeader"];
/** What to do about a problem, as data: each page and program words it for its own users. */
export type Fix = Schemas["Problem"]["fixes"][number];

export type ResultName = FrameHeader["images"][number];
export type ImageName = Session["images"][number];
export type FileName = "prompt" | ResultName;

/** Where a session's images come from; kept, so that the session can be made again. */
export type Source =
  | { kind: "case" }
  | { kind: "paths"; paths: Partial<Record<ImageName, string>> }
  | { kind: "upload"; files: Partial<Record<ImageName, File>> };

export interface StrokeQuery {
  revision: number;
  since: number;
  first: number;
  box: Box | null;
}

/** The server answered, and refused. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly kind: string,
    message: string,
    readonly revision: number | null,
  ) {
    super(message);
  }

  get sessionGone(): boolean {
    return this.status === 404 && this.kind === "SessionGone";
  }

  /** The server asks for another token than this tab has: it may have been started again. */
  get tokenNeeded(): boolean {
    return this.status === 401;
  }
}

/** No answer: the server is down or cannot be reached. */
export class Unreachable extends Error {}

const HEADERS_WITHIN_MS = 60_000;
const TOKEN_KEY = "tlp-token";

/**
 * The access token of the address's fragment, kept for this tab and taken out of the address bar. Without
 * one there: the token that was kept.
 */
function takeToken(): string | null {
  const given = /^#token=(.+)$/.exec(location.hash)?.[1]; // as it is: to URLSearchParams a plus is a space
  if (given === undefined) return sessionStorage.getItem(TOKEN_KEY);
  sessionStorage.setItem(TOKEN_KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
  return given;
}

export function gridOf(session: Session): Grid {
  return new Grid(session.shape, session.affine, session.spacing_mm);
}

export class Api {
  private token = takeToken();

  /** Takes the token of an address that was pasted into this tab. */
  refreshToken(): void {
    this.token = takeToken();
  }

  status(within_ms = HEADERS_WITHIN_MS): Promise<Status> {
    return this.json("GET", "api/status", {}, within_ms);
  }

  files(path: string): Promise<Folder> {
    return this.json("GET", `api/files?path=${encodeURIComponent(path)}`);
  }

  open(source: Source): Promise<Session> {
    if (source.kind === "upload") {
      if (Object.keys(source.files).length === 0) {
        return Promise.reject(new Error("The server no longer has the scan that was uploaded; open it again."));
      }
      const form = new FormData();
      for (const [name, file] of Object.entries(source.files)) form.append(name, file, file.name);
      return this.json("POST", "api/sessions/upload", { body: form }, 10 * HEADERS_WITHIN_MS);
    }
    const body = JSON.stringify(source.kind === "paths" ? source.paths : {});
    const headers = { "Content-Type": "application/json" };
    return this.json("POST", "api/sessions", { body, headers }, 10 * HEADERS_WITHIN_MS);
  }

  session(id: string): Promise<Session> {
    return this.json("GET", `api/sessions/${id}`);
  }

  /** Lets the server forget a session, later if nobody uses it; best effort, also while the page is closing. */
  close(id: string, after_s = 0): void {
    this.fetch("DELETE", `api/sessions/${id}?after_s=${after_s}`, { keepalive: true }).catch(() => undefined);
  }

  /** An image on the session's grid: gzip'd NIfTI bytes. */
  async image(id: string, name: ImageName | FileName): Promise<ArrayBuffer> {
    return body(await this.fetch("GET", `api/sessions/${id}/images/${name}`));
  }

  /** An image to keep, on the scan's own grid. */
  async file(id: string, name: FileName): Promise<Blob> {
    const response = await this.fetch("GET", `api/sessions/${id}/files/${name}`);
    return new Blob([await body(response)], { type: "application/octet-stream" });
  }

  /** `meaning` says what the file's numbers mean, if not as in BraTS: "tumour=1,3 oedema=2". */
  putPrompt(id: string, file: Blob, meaning: string): Promise<{ revision: number }> {
    const headers = { "Content-Type": "application/octet-stream" };
    const query = meaning ? `?labels=${encodeURIComponent(meaning)}` : "";
    return this.json("PUT", `api/sessions/${id}/prompt${query}`, { body: file, headers });
  }

  evidence(id: string): Promise<Evidence> {
    return this.json("GET", `api/sessions/${id}/evidence`);
  }

  /** Sends a stroke (`payload` is its gzip'd box); resolves with the stream as soon as the headers are there. */
  stroke(id: string, query: StrokeQuery, payload: Uint8Array<ArrayBuffer> | null): Promise<Response> {
    const { box, ...rest } = query;
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...rest, ...box })) search.set(key, String(value));
    const init: RequestInit = payload
      ? { body: payload, headers: { "Content-Type": "application/octet-stream", "Content-Encoding": "gzip" } }
      : {};
    return this.fetch("POST", `api/sessions/${id}/strokes?${search}`, init);
  }

  private async json<T>(method: string, path: string, init: RequestInit = {}, within_ms?: number): Promise<T> {
    const response = await this.fetch(method, path, init, within_ms);
    const text = new TextDecoder().decode(await body(response));
    try {
      return JSON.parse(text) as T;
    } catch {
      throw new Refused(response.status, "BadAnswer", "The server's answer is not JSON.", null);
    }
  }

  private async fetch(
    method: string,
    path: string,
    init: RequestInit = {},
    within_ms = HEADERS_WITHIN_MS,
  ): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.token) headers.set("Authorization", `Bearer ${this.token}`);
    const timer = new AbortController();
    const late = setTimeout(() => timer.abort(), within_ms);
    let response: Response;
    try {
      response = await fetch(path, { ...init, method, headers, signal: timer.signal, cache: "no-store" });
    } catch (error) {
      throw new Unreachable(error instanceof Error ? error.message : String(error));
    } finally {
      clearTimeout(late);
    }
    if (response.ok) return response;
    if ([502, 503, 504].includes(response.status) && !response.headers.get("Content-Type")?.includes("json")) {
      throw new Unreachable(`A gateway answers ${response.status}.`);
    }
    throw await refusal(response);
  }
}

/** A body that breaks off is a server that cannot be reached. */
async function body(response: Response): Promise<ArrayBuffer> {
  try {
    return await response.arrayBuffer();
  } catch (error) {
    throw new Unreachable(String(error));
  }
}

async function refusal(response: Response): Promise<Refused> {
  let said: { error?: { kind?: string; problem?: string; fixes?: Fix[] }; revision?: number } = {};
  try {
    said = (await response.json()) as typeof said;
  } catch {
    // not JSON: the status line is all there is to say
  }
  const problem = said.error?.problem ?? `The server answers ${response.status} ${response.statusText}.`;
  const message = joined(problem, said.error?.fixes ?? []);
  return new Refused(response.status, said.error?.kind ?? "Error", message, said.revision ?? null);
}
