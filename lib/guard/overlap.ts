/** Whether edits hold the questions that pay, or their answers, without having them from the passage. */
import type { Question, TaskContext } from '../task/task.js';
import { holdsPhrase, wordRuns } from './text.js';

/** Words of a run by which a question is recognised. */
const RUN = 4;
/** Share of a question's runs that an edit must hold to have copied it. */
const COPIED = 0.8;
/** Letters of the shortest answer that counts: shorter ones turn up by chance. */
const SHORTEST_ANSWER = 4;

/**
 * Share of `questions` that `text` holds, in [0, 1]: a question of which it repeats at least four fifths of the runs of four
 * words, or an answer, as long as the passage does not hold it either. 0 without questions.
 */
export function copiedShare(
  text: string,
  questions: readonly Question[],
  { title, context }: Pick<TaskContext, 'title' | 'context'>,
): number {
  if (questions.length === 0) return 0;
  const source = `${title}\n${context}`;
  const edit = wordRuns(text, RUN);
  const known = wordRuns(source, RUN);
  const copied = questions.filter(({ question, answers }) => {
    const telling = [...wordRuns(question, RUN)].filter((run) => !known.has(run) && !holdsShort(source, run));
    const held = telling.filter((run) => edit.has(run) || holdsShort(text, run));
    if (telling.length > 0 && held.length >= COPIED * telling.length) return true;
    return answers.some((answer) => {
      const long = answer.replace(/\s/g, '').length >= SHORTEST_ANSWER;
      return long && !holdsPhrase(source, answer) && holdsPhrase(text, answer);
    });
  });
  return copied.length / questions.length;
}

// A question shorter than a run is one run by itself.
function holdsShort(text: string, run: string): boolean {
  return run.split(' ').length < RUN && holdsPhrase(text, run);
}
