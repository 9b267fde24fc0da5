/** The page: finds out what the server offers, opens a case, and wires buttons and keys to it. */

import "./style.css";

import { Api, Refused, type Session, type Source, type Status, type Warning } from "./api";
import { Case } from "./case";
import { listen } from "./commands";
import { byId, make, messageOf } from "./dom";
import { joined } from "./fixes";
import { handle } from "./handle";
import { showHelp } from "./help";
import { KEPT_S, leave, type Left, takeLeft } from "./left";
import { NEEDS_TOKEN } from "./loop";
import { OpenScreen } from "./open";
import { wirePanel } from "./panel";

const api = new Api();
let current: Case | null = null;
let status: Status | null = null;
let retry: (() => void) | null = null;
let reloading = false;

function alert(message: string, again: (() => void) | null = null): void {
  byId("alert-text").textContent = message;
  byId("alert").hidden = message === "";
  retry = again ?? (current?.loop.phase === "failed" ? () => current?.loop.run() : null);
  byId("alert-retry").hidden = retry === null;
  byId("alert-close").hidden = current?.loop.phase === "offline";
}

function show(screen: "open" | "work"): void {
  byId("open").hidden = screen !== "open";
  byId("work").hidden = screen !== "work";
  byId("status").hidden = screen !== "work";
  for (const button of document.querySelectorAll<HTMLElement>(".main-only")) button.hidden = screen !== "work";
}

function warn(warnings: readonly Warning[]): void {
  byId("warning-list").replaceChildren(...warnings.map((one) => make("li", {}, joined(one.text, one.fixes))));
  byId("warnings").hidden = warnings.length === 0;
}

async function openCase(source: Source, session: Session, left: Left | null = null): Promise<void> {
  show("work");
  byId("panes").replaceChildren(make("p", { class: "loading" }, "Loading the images…"));
  try {
    const host = { alert, graphicsLost, openOther: chooseOther, help: showHelp };
    current = await Case.open(api, status!, source, session, host);
    warn(session.warnings);
    current.refresh();
    current.tool("brush");
    if (left) await current.takeOver(left);
  } catch (error) {
    byId("panes").replaceChildren();
    show("open");
    throw error;
  }
}

async function openNew(source: Source, session: Session, left: Left | null = null): Promise<void> {
  try {
    await openCase(source, session, left);
  } catch (error) {
    api.close(session.id);
    throw error;
  }
}

function closeCase(): void {
  current?.close();
  current = null;
  warn([]);
  alert("");
  byId("case").textContent = "";
}

function graphicsLost(): void {
  alert("The browser has taken the graphics away. Try again loads the page again; what is drawn is kept.", () => {
    reloading = true;
    location.reload();
  });
}

function chooseOther(): void {
  if (!current?.unsaved || confirm("The mask is not saved. Open another case?")) chooseCase();
}

function chooseCase(): void {
  closeCase();
  show("open");
  new OpenScreen(api, status!, openNew);
}

/**
 * Goes on with what this tab had before it was reloaded: in its session, or in a new one of the same scan
 * where the server has lost it. False where there was nothing, or the scan was uploaded and is gone.
 */
async function goneOn(): Promise<boolean> {
  const left = takeLeft();
  if (!left) return false;
  try {
    try {
      await openCase(left.source, await api.session(left.session), left);
    } catch (error) {
      if (!(error instanceof Refused && error.sessionGone)) throw error;
      if (left.source.kind === "upload") return false;
      await openNew(left.source, await api.open(left.source), left);
    }
  } catch (error) {
    leave(left); // for the next try
    throw error;
  }
  return true;
}

async function start(): Promise<void> {
  alert("");
  byId("open").replaceChildren(make("p", { class: "loading" }, "Opening…"));
  try {
    status = await api.status();
    byId("notice").textContent = status.notice;
    if (await goneOn()) return;
    if (!status.case) {
      chooseCase();
      return;
    }
    const source: Source = { kind: "case" };
    await openNew(source, await api.open(source));
  } catch (error) {
    byId("open").replaceChildren();
    alert(error instanceof Refused && error.tokenNeeded ? NEEDS_TOKEN : messageOf(error), () => void start());
  }
}

function wire(): void {
  const open = () => current!;
  wirePanel(open, () => open().tools, () => current?.refresh());
  listen(() => (byId<HTMLDialogElement>("help-dialog").open ? null : current));
  byId("help").addEventListener("click", showHelp);
  byId("alert-retry").addEventListener("click", () => retry?.());
  byId("alert-close").addEventListener("click", () => alert(""));
  byId("warnings-close").addEventListener("click", () => warn([]));
  byId<HTMLInputElement>("slice").addEventListener("input", (event) => {
    const [x, y] = open().viewer.cross;
    open().viewer.moveTo([x, y, Number((event.target as HTMLInputElement).value)]);
  });
  byId<HTMLInputElement>("opacity").addEventListener("input", (event) => {
    open().setOpacity(Number((event.target as HTMLInputElement).value) / 100);
  });
  byId<HTMLInputElement>("mask-file").addEventListener("change", (event) => {
    const field = event.target as HTMLInputElement;
    const [file] = field.files ?? [];
    field.value = "";
    if (file) void current?.loadMaskFile(file);
  });
  // after a click the keys go to the image again; who tabs to a button keeps the focus there
  document.addEventListener("click", (event) => {
    const button = (event.target as HTMLElement).closest("button");
    if (button && event.detail > 0) current?.viewer.active?.over.focus({ preventScroll: true });
  });
  window.addEventListener("beforeunload", (event) => {
    if (current?.unsaved && !reloading) event.preventDefault();
  });
  window.addEventListener("pagehide", () => {
    if (!current) return;
    leave(current.left);
    api.close(current.loop.session.id, KEPT_S);
  });
  // an address with another token, pasted into this tab, loads nothing by itself
  window.addEventListener("hashchange", () => {
    api.refreshToken();
    if (!current) void start();
  });
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    takeLeft();
    current?.loop.run();
  });
}

window.tlp = handle(() => current);
show("open");
wire();
void start();
