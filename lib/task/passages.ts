/**
 * Reads question-answering passages: a JSON array of `{title, context, questions: [{question, answer}]}`, the same one
 * object a line (JSONL), or the original SQuAD v1.1 file. What is malformed is named by file, line or index, and key.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { makeError } from '../errors.js';

/** A passage and its questions; the first answer is the reference. */
export interface Passage {
  readonly title: string;
  readonly context: string;
  readonly questions: readonly { readonly question: string; readonly answers: readonly string[] }[];
}

/** Passages of a file, and the SHA-256 (hex) of its bytes. */
export async function readPassages(path: string): Promise<{ passages: Passage[]; sha256: string }> {
  const { text, sha256 } = await readData(path);
  return { passages: parsePassages(text, path), sha256 };
}

/** Texts of a file that holds a JSON array of strings, and the SHA-256 (hex) of its bytes. */
export async function readTexts(path: string): Promise<{ texts: string[]; sha256: string }> {
  const { text, sha256 } = await readData(path);
  const value = parseJson(text, path);
  if (!Array.isArray(value)) throw invalid(path, `holds ${describe(value)}`, 'an array of strings');
  if (value.length === 0) throw invalid(path, 'holds no texts', 'at least one');
  const texts = value.map((item: unknown, index) => {
    if (typeof item === 'string' && item.trim() !== '') return item;
    throw invalid(
      `${path} [${index}]`,
      `is ${item === '' ? 'empty' : describe(item)}`,
      'a string that is not empty',
    );
  });
  return { texts, sha256 };
}

async function readData(path: string): Promise<{ text: string; sha256: string }> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    throw makeError(
      missing ? 'FILE_NOT_FOUND' : 'IO',
      `${path}: ${missing ? 'no such file' : String(cause)}`,
      cause,
    );
  }
  return { text: bytes.toString('utf8'), sha256: createHash('sha256').update(bytes).digest('hex') };
}

/** Passages of the text of a file; `name` is what errors call it. */
export function parsePassages(text: string, name: string): Passage[] {
  const source = text.replace(/^\ufeff/, '');
  const passages = /\.(jsonl|ndjson)$/i.test(name) ? fromLines(source, name) : fromJson(source, name);
  if (passages.length === 0) throw invalid(name, 'holds no passages', 'at least one');
  return passages;
}

function fromLines(text: string, name: string): Passage[] {
  return text.split('\n').flatMap((line, index) => {
    if (line.trim() === '') return [];
    const where = `${name} line ${index + 1}`;
    return [passage(parseJson(line, where), where)];
  });
}

function fromJson(text: string, name: string): Passage[] {
  const value = parseJson(text, name);
  if (Array.isArray(value)) return value.map((item, index) => passage(item, `${name} [${index}]`));
  if (isRecord(value) && 'data' in value) return fromSquad(value, name);
  throw invalid(
    name,
    `holds ${describe(value)}`,
    'an array of passages, or an object with "data" (SQuAD v1.1)',
  );
}

function fromSquad(root: Record<string, unknown>, name: string): Passage[] {
  return list(root, 'data', name).flatMap((article, a) => {
    const inArticle = `${name} data[${a}]`;
    const fields = record(article, inArticle);
    const title = text(fields, 'title', inArticle).replaceAll('_', ' ');
    return list(fields, 'paragraphs', inArticle).map((paragraph, p) => {
      const inParagraph = `${inArticle}.paragraphs[${p}]`;
      const body = record(paragraph, inParagraph);
      const questions = list(body, 'qas', inParagraph).map((qa, q) => {
        const inQuestion = `${inParagraph}.qas[${q}]`;
        const entry = record(qa, inQuestion);
        const answers = list(entry, 'answers', inQuestion).map((answer, index) => {
          const inAnswer = `${inQuestion}.answers[${index}]`;
          return filled(record(answer, inAnswer), 'text', inAnswer);
        });
        return { question: filled(entry, 'question', inQuestion), answers: distinct(answers, inQuestion) };
      });
      return { title, context: filled(body, 'context', inParagraph), questions };
    });
  });
}

function passage(value: unknown, where: string): Passage {
  const fields = record(value, where);
  const questions = list(fields, 'questions', where).map((item, index) => {
    const inQuestion = `${where}.questions[${index}]`;
    const entry = record(item, inQuestion);
    const answers =
      'answers' in entry && !('answer' in entry)
        ? list(entry, 'answers', inQuestion).map((answer, at) => {
            if (typeof answer === 'string' && answer.trim() !== '') return answer;
            throw invalid(
              `${inQuestion}.answers[${at}]`,
              `is ${describe(answer)}`,
              'a string that is not empty',
            );
          })
        : [filled(entry, 'answer', inQuestion)];
    return { question: filled(entry, 'question', inQuestion), answers: distinct(answers, inQuestion) };
  });
  return { title: text(fields, 'title', where), context: filled(fields, 'context', where), questions };
}

function distinct(answers: string[], where: string): string[] {
  if (answers.length === 0) throw invalid(`${where}.answers`, 'is empty', 'at least one answer');
  return [...new Set(answers)];
}

function parseJson(source: string, where: string): unknown {
  try {
    return JSON.parse(source);
  } catch (cause) {
    const { message } = cause as Error;
    const position = /at position (\d+)/.exec(message)?.[1];
    const line =
      position === undefined ? '' : ` line ${source.slice(0, Number(position)).split('\n').length}`;
    const place = where.includes(' line ') ? where : where + line;
    throw invalid(place, `is not JSON (${message})`, 'valid JSON', cause);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function record(value: unknown, where: string): Record<string, unknown> {
  if (isRecord(value)) return value;
  throw invalid(where, `is ${describe(value)}`, 'an object');
}

function list(fields: Record<string, unknown>, key: string, where: string): unknown[] {
  const value = fields[key];
  if (Array.isArray(value)) return value;
  throw invalid(`${where}.${key}`, `is ${describe(value)}`, 'an array');
}

function text(fields: Record<string, unknown>, key: string, where: string): string {
  const value = fields[key];
  if (typeof value === 'string') return value;
  throw invalid(`${where}.${key}`, `is ${describe(value)}`, 'a string');
}

function filled(fields: Record<string, unknown>, key: string, where: string): string {
  const value = text(fields, key, where);
  if (value.trim() !== '') return value;
  throw invalid(`${where}.${key}`, 'is empty', 'a string that is not empty');
}

function describe(value: unknown): string {
  if (value === undefined) return 'missing';
  if (value === null) return 'null';
  return Array.isArray(value) ? 'an array' : `${/^[aeiou]/.test(typeof value) ? 'an' : 'a'} ${typeof value}`;
}

function invalid(where: string, found: string, expected: string, cause?: unknown): Error {
  return makeError('INPUT_INVALID', `${where} ${found}; expected ${expected}`, cause);
}
