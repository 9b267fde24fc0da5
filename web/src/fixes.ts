import type { Fix } from "./api";

/** Options that whoever runs the server can set, in words. */
const SERVER_OPTIONS: Record<string, string> = {
  allow_origins: "allow this page's origin",
  allowed_hosts: "allow this name of the server",
  max_upload_mib: "allow larger uploads",
  max_volume_mib: "allow larger images",
  memory_mib: "allow more memory for open cases",
  root: "share a folder of scans",
};

const CHOSEN: Record<string, string> = { t1: "T1", t2: "T2", prompt: "mask" };

/** A fix as a reader at this page can carry it out; empty where there is no such thing here. */
export function worded(fix: Fix): string {
  switch (fix.kind) {
    case "advice":
      return fix.text;
    case "set-option": {
      const change = SERVER_OPTIONS[fix.option];
      return change === undefined ? "" : `Whoever runs this server can ${change}.`;
    }
    case "choose-another": {
      const what = CHOSEN[fix.option];
      return what === undefined ? "" : `Choose another ${what}${fix.purpose ? ` ${fix.purpose}` : ""}.`;
    }
    case "install":
    case "run-task":
      return "";
  }
}

/** A problem, and what can be done about it here. */
export function joined(problem: string, fixes: readonly Fix[]): string {
  const said = fixes.map(worded).filter((sentence) => sentence !== "");
  const stop = /[.?!…:]$/.test(problem) ? "" : ".";
  return said.length === 0 ? problem : `${problem}${stop} ${said.join(" ")}`;
}
