// One rank of `bench/scaling.mjs --measure`: joins the others, meets and gathers with them; rank 0 prints the seconds.
import { Ranks, ranksFromEnvironment } from 'selfedit';
import { median } from './statistics.mjs';

const [meetings, bytes, edits] = process.argv.slice(2).map(Number);
const ranks = await Ranks.join(ranksFromEnvironment(process.env));

async function timed(repeats, work) {
  const samples = [];
  for (let r = 0; r <= repeats; r++) {
    await ranks.arrive('start of a sample');
    const begin = performance.now();
    await work(r);
    if (r > 0) samples.push((performance.now() - begin) / 1e3);
  }
  return median(samples);
}

/** What a rank tells of an edit, in form and about in size. */
function edit(index) {
  const text =
    `${index} The passage says that the river is long, and that the town beside it is old. `.repeat(12);
  return {
    sample: index,
    text,
    documents: text.match(/.{1,120}/g),
    tokens: Int32Array.from({ length: 232 }, (_, at) => (index * 31 + at) % 49152),
    logprobs: new Float32Array(232).fill(-1.25),
    reward: { score: 0.5, forget: 0.01, parts: { recall: 0.25, exact: 0 } },
    answers: Array.from({ length: 5 }, (_, q) => ({
      question: q,
      text: 'in the old town beside the river',
      score: 0.25,
    })),
  };
}

const meet = await timed(5, async () => {
  for (let m = 0; m < meetings; m++) await ranks.arrive('meeting');
});
const mine = new Uint8Array(bytes).fill(ranks.rank);
const move = await timed(5, () => ranks.gather('bytes', mine));
const own = Array.from({ length: edits }, (_, index) => edit(index + edits * ranks.rank));
ranks.takeTraffic();
const read = await timed(5, () => ranks.gather('edits', own));
const { gathered } = ranks.takeTraffic();
if (ranks.lead) {
  const others = ranks.world - 1;
  console.log(
    JSON.stringify({
      world: ranks.world,
      meetingSeconds: meet / meetings,
      gatherBytesPerSecond: (bytes * others) / move,
      editSeconds: read / (edits * ranks.world),
      editBytes: Math.round(gathered / 6 / (edits * others)),
    }),
  );
}
await ranks.close();
