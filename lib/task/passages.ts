/**
 * Reads question-answering passages: a JSON array of `{title, context, questions: [{question, answer}]}`, the same one
 * object a line (JSONL), or the original SQuAD v1.1 file. What is malformed is named by file, line or index, and key.
 */
import { createHash } from 'node:crypto';
import {
  asList,
  asObject,
  asString,
  asText,
  invalid,
  isObject,
  kindOf,
  parseJson,
  readBytes,
} from './json.js';

/** A passage and its questions; the first answer is the reference. */
export interface Passage {
  readonly title: string;
  readonly context: string;
  readonly questions: readonly { readonly question: string; readonly answers: readonly string[] }[];
}

export interface PassageOptions {
  /** A question may lack its answers, for majority votes or graders that need none; an error otherwise. false. */
  unanswered?: boolean;
}

/** Passages of a file, and the SHA-256 (hex) of its bytes. */
export async function readPassages(
  path: string,
  options: PassageOptions = {},
): Promise<{ passages: Passage[]; sha256: string }> {
  const { text, sha256 } = await readData(path);
  return { passages: parsePassages(text, path, options), sha256 };
}

/** Texts of a file that holds a JSON array of strings, and the SHA-256 (hex) of its bytes. */
export async function readTexts(path: string): Promise<{ texts: string[]; sha256: string }> {
  const { text, sha256 } = await readData(path);
  const value = parseJson(text.replace(/^\ufeff/, ''), path);
  if (!Array.isArray(value)) throw invalid(path, `holds ${kindOf(value)}`, 'an array of strings');
  if (value.length === 0) throw invalid(path, 'holds no texts', 'at least one');
  const texts = value.map((item: unknown, index) => {
    if (typeof item === 'string' && item.trim() !== '') return item;
    throw invalid(
      `${path} [${index}]`,
      `is ${item === '' ? 'empty' : kindOf(item)}`,
      'a string that is not empty',
    );
  });
  return { texts, sha256 };
}

async function readData(path: string): Promise<{ text: string; sha256: string }> {
  const bytes = await readBytes(path);
  return { text: bytes.toString('utf8'), sha256: createHash('sha256').update(bytes).digest('hex') };
}

/** Passages of the text of a file; `name` is what errors call it. */
export function parsePassages(
  text: string,
  name: string,
  { unanswered = false }: PassageOptions = {},
): Passage[] {
  const source = text.replace(/^\ufeff/, '');
  const passages = /\.(jsonl|ndjson)$/i.test(name)
    ? fromLines(source, name, unanswered)
    : fromJson(source, name, unanswered);
  if (passages.length === 0) throw invalid(name, 'holds no passages', 'at least one');
  return passages;
}

function fromLines(text: string, name: string, unanswered: boolean): Passage[] {
  return text.split('\n').flatMap((line, index) => {
    if (line.trim() === '') return [];
    const where = `${name} line ${index + 1}`;
    return [passage(parseJson(line, where), where, unanswered)];
  });
}

function fromJson(text: string, name: string, unanswered: boolean): Passage[] {
  const value = parseJson(text, name);
  if (Array.isArray(value))
    return value.map((item, index) => passage(item, `${name} [${index}]`, unanswered));
  if (isObject(value) && 'data' in value) return fromSquad(value, name);
  throw invalid(
    name,
    `holds ${kindOf(value)}`,
    'an array of passages, or an object with "data" (SQuAD v1.1)',
  );
}

function fromSquad(root: Record<string, unknown>, name: string): Passage[] {
  return asList(root.data, `${name}.data`).flatMap((article, a) => {
    const inArticle = `${name} data[${a}]`;
    const fields = asObject(article, inArticle);
    const title = asString(fields.title, `${inArticle}.title`).replaceAll('_', ' ');
    return asList(fields.paragraphs, `${inArticle}.paragraphs`).map((paragraph, p) => {
      const inParagraph = `${inArticle}.paragraphs[${p}]`;
      const body = asObject(paragraph, inParagraph);
      const questions = asList(body.qas, `${inParagraph}.qas`).map((qa, q) => {
        const inQuestion = `${inParagraph}.qas[${q}]`;
        const entry = asObject(qa, inQuestion);
        const answers = asList(entry.answers, `${inQuestion}.answers`).map((answer, index) => {
          const inAnswer = `${inQuestion}.answers[${index}]`;
          return asText(asObject(answer, inAnswer).text, `${inAnswer}.text`);
        });
        return {
          question: asText(entry.question, `${inQuestion}.question`),
          answers: distinct(answers, inQuestion),
        };
      });
      return { title, context: asText(body.context, `${inParagraph}.context`), questions };
    });
  });
}

function passage(value: unknown, where: string, unanswered: boolean): Passage {
  const fields = asObject(value, where);
  const questions = asList(fields.questions, `${where}.questions`).map((item, index) => {
    const inQuestion = `${where}.questions[${index}]`;
    const entry = asObject(item, inQuestion);
    const question = asText(entry.question, `${inQuestion}.question`);
    if (unanswered && !('answers' in entry) && !('answer' in entry)) return { question, answers: [] };
    const answers =
      'answers' in entry && !('answer' in entry)
        ? asList(entry.answers, `${inQuestion}.answers`).map((answer, at) => {
            if (typeof answer === 'string' && answer.trim() !== '') return answer;
            throw invalid(
              `${inQuestion}.answers[${at}]`,
              `is ${kindOf(answer)}`,
              'a string that is not empty',
            );
          })
        : [asText(entry.answer, `${inQuestion}.answer`)];
    return { question, answers: distinct(answers, inQuestion) };
  });
  return {
    title: asString(fields.title, `${where}.title`),
    context: asText(fields.context, `${where}.context`),
    questions,
  };
}

function distinct(answers: string[], where: string): string[] {
  if (answers.length === 0) throw invalid(`${where}.answers`, 'is empty', 'at least one answer');
  return [...new Set(answers)];
}
