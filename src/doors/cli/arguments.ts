import { readFileSync } from 'node:fs';
import { type ByteString, fromBytes, fromText, quote, toTextExact } from '../../base/bytes.ts';
import { UsageError } from './parse.ts';

/**
 * The process's arguments as bytes. Node decodes them as UTF-8 and puts U+FFFD where they are not; the kernel still has
 * the bytes (proc_pid_cmdline(5)).
 */
export function readArguments(argv: readonly string[]): readonly ByteString[] {
  const args = argv.slice(2);
  if (!args.some((arg) => arg.includes('\ufffd'))) return args.map(fromText);
  return lastArguments(readFileSync('/proc/self/cmdline'), args.length);
}

/** The last `count` strings of a command line as /proc shows it: each ends in a NUL. */
export function lastArguments(cmdline: Uint8Array, count: number): readonly ByteString[] {
  return count === 0 ? [] : (fromBytes(cmdline).split('\0').slice(0, -1).slice(-count) as ByteString[]);
}

/** A variable of the environment as bytes; undefined where it is not set. */
export function variable(name: string, env: NodeJS.ProcessEnv): ByteString | undefined {
  const text = env[name];
  if (text === undefined || !text.includes('\ufffd')) return text === undefined ? undefined : fromText(text);
  const start = `${name}=`;
  const set = fromBytes(readFileSync('/proc/self/environ'))
    .split('\0')
    .find((one) => one.startsWith(start));
  return (set?.slice(start.length) ?? fromText(text)) as ByteString;
}

/** The value of JSON, all of whose strings are bytes, as they stand there: names need not be UTF-8. Throws SyntaxError. */
export function parseJson(arg: ByteString): unknown {
  // An escape names a character (RFC 8259, 7), two of them one beyond U+FFFF: what stands for its bytes is put there.
  const escapes = /((?:\\u[0-9a-f]{4})+)|\\./gi;
  const plain = (whole: string, characters: string | undefined): string => {
    if (characters === undefined) return whole;
    const text: string = JSON.parse(`"${characters}"`);
    if (!text.isWellFormed()) throw new SyntaxError(`${characters} is half a character`);
    return JSON.stringify(fromText(text)).slice(1, -1);
  };
  return JSON.parse(arg.replace(escapes, plain));
}

/** An argument that must be text (a reference, a message); `what` names it in the refusal. */
export function textOf(arg: ByteString, what: string): string {
  const text = toTextExact(arg);
  if (text === undefined) throw new UsageError(`${what} ${quote(arg)} is not UTF-8`);
  return text;
}
