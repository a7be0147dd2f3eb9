/** `selfedit rate`: a person chooses between the edits of a run. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { makeError } from '../errors.js';
import { appendPreference, type Preference, resumePreferences } from '../reward/preference-file.js';
import { type Preferences, preferences, type RatedEdit } from '../reward/preferences.js';
import { RatingQueue } from '../reward/rating-queue.js';
import { type Disk, realDisk } from '../run/disk.js';
import { readRunConfig } from '../run/folder.js';
import { readJournal } from '../run/journal.js';
import { readTask } from '../run/task.js';
import { readKeys } from './keys.js';
import { integer, seedOption } from './options.js';
import type { Session } from './session.js';

interface Options {
  ratings?: true;
  seed: bigint;
  count?: number;
  summary?: true;
}

/** An edit of the journal that can be shown. */
interface JournalEdit {
  readonly context: string;
  readonly title: string;
  readonly text: string;
  readonly round: number;
  readonly sample: number;
}

export function addRate(program: Command, session: Session): void {
  program
    .command('rate')
    .description('Collects human preferences over the edits of a run.')
    .argument('<run>', 'folder of the run')
    .option('--ratings', 'rate single edits from 1 (bad) to 5 (good) instead of choosing between two')
    .addOption(seedOption('order and places'))
    .option('--count <n>', 'ends after so many answers', integer(1))
    .option('--summary', 'asks nothing; prints the scores of the edits as one JSON object')
    .addHelpText(
      'after',
      `
Two edits of one context are shown below its passage: 1 or 2 the better one, = equal, s skip, q quit. Edits that least is
known of come first; which is shown first is drawn by the seed and recorded. Each answer goes to RUN/preferences.jsonl at
once; the next call goes on with what is left. Standard input may be a pipe: a line an answer.
Out: {"answers", "left", "file"}; with --summary scores by Bradley and Terry, in log-odds against an average edit.

Example:
  selfedit rate runs/first
  selfedit rate runs/first --summary`,
    )
    .action((run: string, options: Options) => rate(run, options, session));
}

async function rate(run: string, options: Options, session: Session): Promise<void> {
  const edits = await editsOf(realDisk, run);
  const path = join(run, 'preferences.jsonl');
  const records = await resumePreferences(realDisk, path, { repair: !options.summary });
  const found = preferences(records, { edits });
  if (found.unknown.count > 0) {
    const { count, first } = found.unknown;
    session.note(
      `${path} names ${count} edits that the run does not have, which are not used; the first: ${first}`,
    );
  }
  if (options.summary) return session.printLines([summaryOf(path, records, found, edits)]);

  const queue = new RatingQueue(edits, records, options.seed);
  const whole = () => (options.ratings ? queue.left.edits : queue.left.pairs);
  if (records.length === 0 && whole() === 0) {
    throw makeError(
      'INPUT_INVALID',
      `${run} has no two different edits of one context; expected at least one such pair`,
    );
  }
  const contextOf = await contextsOf(realDisk, run);
  const keys = readKeys(process.stdin, session);
  let answers = 0;
  try {
    while (answers < (options.count ?? Number.POSITIVE_INFINITY)) {
      const left = whole();
      const record = await (options.ratings ? askEdit : askPair)(queue, keys, left, contextOf, session);
      if (record === 'quit') break;
      if (record === 'skip') continue;
      await appendPreference(realDisk, path, record);
      queue.add(record);
      answers++;
    }
  } finally {
    await keys.return();
  }
  // What was skipped is asked again next time.
  const left = new RatingQueue(edits, await resumePreferences(realDisk, path), options.seed).left;
  await session.printLines([{ answers, left: options.ratings ? left.edits : left.pairs, file: path }]);
}

type Asked = Preference | 'skip' | 'quit';
type Contexts = (edit: JournalEdit) => string | undefined;

async function askPair(
  queue: RatingQueue<JournalEdit>,
  keys: AsyncGenerator<string, void>,
  left: number,
  contextOf: Contexts,
  session: Session,
): Promise<Asked> {
  const pair = queue.nextPair();
  if (!pair) return 'quit';
  const { a, b } = pair;
  show(session, a, `${left} pairs left`, contextOf(a), [
    ['1', a.text],
    ['2', b.text],
  ]);
  const key = await answer(
    keys,
    ['1', '2', '=', 's', 'q'],
    '1 or 2 the better one, = equal, s skip, q quit',
    session,
  );
  if (key === 'q') return 'quit';
  if (key === 's') {
    queue.skipPair(pair);
    return 'skip';
  }
  const choice = key === '1' ? 'a' : key === '2' ? 'b' : 'tie';
  return { version: 1, kind: 'pair', context: a.context, a: a.text, b: b.text, choice };
}

async function askEdit(
  queue: RatingQueue<JournalEdit>,
  keys: AsyncGenerator<string, void>,
  left: number,
  contextOf: Contexts,
  session: Session,
): Promise<Asked> {
  const edit = queue.nextEdit();
  if (!edit) return 'quit';
  show(session, edit, `${left} edits left`, contextOf(edit), [['edit', edit.text]]);
  const key = await answer(
    keys,
    ['1', '2', '3', '4', '5', 's', 'q'],
    '1 bad … 5 good, s skip, q quit',
    session,
  );
  if (key === 'q') return 'quit';
  if (key === 's') {
    queue.skipEdit(edit);
    return 'skip';
  }
  return { version: 1, kind: 'rating', context: edit.context, edit: edit.text, rating: Number(key) };
}

function show(
  session: Session,
  { context, title }: JournalEdit,
  left: string,
  passage: string | undefined,
  parts: readonly (readonly [string, string])[],
): void {
  const rule = (name: string) => `── ${name} ${'─'.repeat(Math.max(2, 60 - name.length))}`;
  session.note(rule(`${printable(title).replaceAll('\n', ' ')} (context ${context}), ${left}`));
  if (passage !== undefined) session.note(printable(passage));
  for (const [name, text] of parts) session.note(`${rule(name)}\n${printable(text)}`);
}

/** What a model writes must not steer the terminal. */
function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, '\ufffd').trim();
}

/** The next key that is one of these; the end of the input is `q`. */
async function answer(
  keys: AsyncGenerator<string, void>,
  expected: readonly string[],
  legend: string,
  session: Session,
): Promise<string> {
  for (;;) {
    session.note(`[${legend}]`);
    const { value, done } = await keys.next();
    if (done) return 'q';
    if (expected.includes(value)) return value;
  }
}

/** Text edits of the journal that could be followed. Throws `RUN_INVALID`. */
async function editsOf(disk: Disk, run: string): Promise<JournalEdit[]> {
  const { lines } = await readJournal(disk, run);
  if (lines.length === 0) {
    throw makeError('RUN_INVALID', `${run} holds no journal of a finished round; expected a run folder`);
  }
  return lines.flatMap((line) => {
    if (line.type !== 'edit' || line.invalid !== undefined || line.text.trim() === '') return [];
    const { context, title, text, round, sample } = line;
    return [{ context, title, text, round, sample }];
  });
}

/** The context that an edit was written from, where the run's data are still there. */
async function contextsOf(disk: Disk, run: string): Promise<Contexts> {
  try {
    const config = await readRunConfig(disk, run);
    const { task } = await readTask(config);
    return ({ round, context, title }) => {
      const found = task.contexts(round, config.contextsPerRound).find(({ id }) => id === context);
      return found?.title === title ? found.context : undefined;
    };
  } catch {
    return () => undefined;
  }
}

function summaryOf(
  path: string,
  records: readonly Preference[],
  found: Preferences,
  edits: readonly JournalEdit[],
) {
  const contexts = new Map<string, RatedEdit[]>();
  for (const edit of found.edits) {
    const own = contexts.get(edit.context);
    if (own) own.push(edit);
    else contexts.set(edit.context, [edit]);
  }
  const ofKind = (kind: Preference['kind']) => records.filter((record) => record.kind === kind).length;
  return {
    file: path,
    pairs: ofKind('pair'),
    ratings: ofKind('rating'),
    unknown: found.unknown,
    // About 1/2 unless people favour a place.
    firstChosen: found.firstChosen
      ? { share: found.firstChosen.mean, interval: [found.firstChosen.low, found.firstChosen.high] }
      : null,
    contexts: [...contexts].map(([context, own]) => ({
      context,
      title: edits.find((edit) => edit.context === context)!.title,
      edits: own
        .sort((left, right) => right.score - left.score)
        .map(({ text, score, error, wins, losses, ties, ratings }) => {
          const { round, sample } = edits.find((edit) => edit.context === context && edit.text === text)!;
          return { round, sample, score, error, wins, losses, ties, ratings, text };
        }),
    })),
  };
}
