import { StorageError } from '../base/errors.ts';
import { shown } from './json.ts';

/** Looks a variable up; undefined where it is not set. */
export type Lookup = (name: string) => string | undefined;

/**
 * Splits at blanks outside of quotes, as Dockerfile instructions do; quotes and backslashes stay, for `expandWord`.
 */
export function splitWords(text: string): readonly string[] {
  return text.match(/(?:\\.|'[^']*'?|"(?:\\.|[^"\\])*"?|[^\s\\'"]|\\$)+/gs) ?? [];
}

/**
 * One word as a shell would have it: quotes and backslashes taken away, `$NAME`, `${NAME}`, `${NAME:-word}` and
 * `${NAME:+word}` replaced (docs.docker.com, Dockerfile reference, "Environment replacement"). A quote or brace that
 * is not closed is `invalid-argument`.
 */
export function expandWord(word: string, lookup: Lookup): string {
  let out = '';
  let quoted = false;
  for (let i = 0; i < word.length; ) {
    const char = word[i]!;
    const next = word[i + 1];
    if (char === "'" && !quoted) {
      const close = word.indexOf("'", i + 1);
      if (close < 0) throw unclosed(word);
      out += word.slice(i + 1, close);
      i = close + 1;
    } else if (char === '"') {
      quoted = !quoted;
      i++;
    } else if (char === '\\' && next !== undefined) {
      // Inside double quotes a backslash is itself, but before what means something there.
      out += quoted && next !== '"' && next !== '$' && next !== '\\' ? char + next : next;
      i += 2;
    } else if (char === '$' && next === '{') {
      const close = closingBrace(word, i + 2);
      out += expandBraces(word.slice(i + 2, close), word, lookup);
      i = close + 1;
    } else if (char === '$') {
      const name = /^[A-Za-z_][A-Za-z0-9_]*/.exec(word.slice(i + 1))?.[0] ?? '';
      out += name === '' ? '$' : (lookup(name) ?? '');
      i += 1 + name.length;
    } else {
      out += char;
      i++;
    }
  }
  if (quoted) throw unclosed(word);
  return out;
}

function closingBrace(word: string, from: number): number {
  let depth = 1;
  for (let i = from; i < word.length; i++) {
    if (word[i] === '\\') i++;
    else if (word[i] === '{') depth++;
    else if (word[i] === '}' && --depth === 0) return i;
  }
  throw unclosed(word);
}

function expandBraces(inside: string, word: string, lookup: Lookup): string {
  const parts = /^([A-Za-z_][A-Za-z0-9_]*)(?::([-+])(.*))?$/s.exec(inside);
  if (parts === null)
    throw new StorageError('invalid-argument', `Cannot read ${shown(word)}: "\${${inside}}" is no variable`);
  const [, name = '', operator, other = ''] = parts;
  const value = lookup(name) ?? '';
  if (operator === '-') return value === '' ? expandWord(other, lookup) : value;
  if (operator === '+') return value === '' ? '' : expandWord(other, lookup);
  return value;
}

function unclosed(word: string): StorageError {
  return new StorageError('invalid-argument', `Cannot read ${shown(word)}: a quote or brace in it is not closed`);
}
