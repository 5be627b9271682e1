// What a link says of single rows and photos: boxes around objects and rows of another class. Each is asked for as a visitor
// would, one after the other, once the board that the link means is complete.

let linked = null; // { steps, before: the run that is not yet the link's, run: the one it is followed on }

function takeLink({ classes, boxes, another }) {
  const steps = [...boxes.map(([picture, boxes]) => ({ picture, boxes })), ...classes.map(([picture, index, checkpoint, map]) => ({ picture, index, checkpoint, map }))];
  linked = steps.length ? { steps, before: another ? newest?.run : null, run: null } : null;
  followLink();
}

// The next step, and that what is shown has changed.
function followLink() {
  root().dispatchEvent(new CustomEvent("simpool-shown", { bubbles: true }));
  if (!linked || !board?.value.ran || board.value.waiting || board.value.run === linked.before) return;
  linked.run ??= board.value.run;
  if (linked.run !== board.value.run) linked = null; // a visitor has gone on
  for (let step = linked?.steps.shift(); step; step = linked.steps.shift()) {
    const { picture, boxes, index, checkpoint, map } = step, photo = board.photos[picture];
    if (boxes && photo) return trigger("reference", { picture, key: photo.key, boxes });
    const row = board.rows.find((one) => one.picture === picture && one.checkpoint === checkpoint && one.name === map && one.of_class);
    if (index !== undefined && row) return askClasses(row, index);
  }
  linked = null;
}

// What stands in the address: of the board as it is shown, and what of a link is still to come.
function saidOfRows() {
  const references = (board?.photos ?? []).map(({ key }) => board.references.get(key)), to = linked?.steps ?? [];
  return {
    classes: [
      ...(board?.rows ?? []).filter((row) => row.of).map((row) => [row.picture, row.of.index, row.checkpoint, row.of.map]),
      ...to.filter((step) => step.map).map((step) => [step.picture, step.index, step.checkpoint, step.map]),
    ],
    boxes: [
      ...references.flatMap((one, picture) => (one?.boxes ?? []).map((box) => [picture, ...box])),
      ...to.flatMap((step) => (step.boxes ?? []).map((box) => [step.picture, ...box])),
    ],
    mask: references.some((one) => one?.own && !one.boxes.length),
  };
}
