/** The tools' icons: paths in a 16 x 16 box. */

import type { Tool } from "./tools";

const PATHS: Record<Tool, string> = {
  navigate: "M8 1v14M1 8h14M6 3l2-2 2 2M6 13l2 2 2-2M3 6L1 8l2 2M13 6l2 2-2 2",
  window: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM8 2v12M8 5h4.5M8 8h6M8 11h4.5",
  brush: "M13.5 2.5 7 9M7 9c-2-.5-3.5.8-3.5 2.5S2.500 13.500 2 13.500c3 1 6-.2 6-2.500 0-.8-.3-1.500-1-2Z",
  eraser: "M9.500 2.500 2.500 9.500l3.500 3.500h2l5.500-5.500-4-5ZM6 6l4 4M8 13h6",
  contour: "M3 9C1.500 4 6 2 9 3s6 3 4 7-8 4-10-1Z",
  fill: "M7 2 2 7l5 5 5-5-5-5ZM2.500 7h9M14 10c1 1.600 1 3 0 3s-1-1.400 0-3Z",
  box: "M2.500 5.500h8v8h-8ZM2.500 5.500l3-3h8v8l-3 3M10.500 5.500l3-3",
  sphere: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM2 8c2.500 2 9.500 2 12 0",
};

export function icon(tool: Tool): SVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[tool]);
  svg.append(path);
  return svg;
}
