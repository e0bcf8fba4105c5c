// A field for an image: chosen, or dropped on it.

import { el, field } from "./dom.js";

/**
 * Make the field.
 *
 * @param {number} most bytes that a request may have
 * @param {() => void} onChange a file was chosen
 * @returns {{element: Element, file: () => File}} `file` throws where none is chosen, or a large one
 */
export function imageField(most, onChange) {
  const input = el("input", { type: "file", accept: "image/*" });
  const preview = el("img", { class: "picture photo", alt: "The chosen image", hidden: true });
  const zone = el("div", { class: "drop" }, field("Image", input, "Choose a file, or drop one here."), preview);
  let url = null;

  function changed() {
    if (url) URL.revokeObjectURL(url);
    const [file] = input.files;
    url = file ? URL.createObjectURL(file) : null;
    preview.hidden = !url;
    if (!url) return;
    preview.src = url;
    onChange();
  }
  input.addEventListener("change", changed);
  // A picture of few pixels shows them.
  preview.addEventListener("load", () => preview.classList.toggle("photo", preview.naturalWidth > 64));
  preview.addEventListener("error", () => { preview.hidden = true; }); // of a type that only the server knows
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    changed();
  });

  function file() {
    const [chosen] = input.files;
    if (!chosen) throw new Error("Choose an image first.");
    const fits = Math.floor((most - 1000) * 0.75); // base64 takes four characters for three bytes
    if (chosen.size > fits) {
      throw new Error(`The file has ${megabytes(chosen.size)}; at most ${megabytes(fits)} can be sent.`);
    }
    return chosen;
  }
  return { element: zone, file };
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toPrecision(3)} MB`;
}

/** Return a file as the server takes bytes in JSON. */
export async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error("The file cannot be read.")));
    reader.readAsDataURL(file);
  });
  return { b64: url.slice(url.indexOf(",") + 1) };
}

/** Return a file's pixels [height][width][channels], brought to that size by the browser. */
export async function pixels(file, height, width, channels) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error("The browser cannot read this image.");
  }
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const at = (row, column) => {
    const [red, green, blue] = data.subarray(4 * (row * width + column));
    return channels === 1 ? [Math.round(0.299 * red + 0.587 * green + 0.114 * blue)] : [red, green, blue];
  };
  return Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => at(row, column)));
}

/** Draw numbers [height][width] as a picture: 0 is transparent, the largest is red. */
export function heat(values, label) {
  const [height, width] = [values.length, values[0].length];
  const canvas = el("canvas", { width, height, class: "picture", role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const drawn = context.createImageData(width, height);
  const largest = Math.max(...values.flat(), 1e-12);
  values.flat().forEach((value, i) => drawn.data.set([217, 48, 37, Math.round((255 * value) / largest)], 4 * i));
  context.putImageData(drawn, 0, 0);
  return canvas;
}
