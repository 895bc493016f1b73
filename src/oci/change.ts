import { posix } from 'node:path';
import { StorageError } from '../base/errors.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { objectAt, shown, textAt, textMapAt, textsAt } from './json.ts';
import { expandWord, splitWords } from './words.ts';

const WHAT = 'the config of the image';

/**
 * The `config` object of an image config after Dockerfile instructions, as `docker commit --change` takes them: CMD,
 * ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, USER, VOLUME, WORKDIR, in shell and JSON form. Keys keep their order. What
 * cannot be read is `invalid-argument`.
 */
export function applyChanges(config: JsonObject, changes: readonly string[]): JsonObject {
  const draft = new Map<string, JsonValue>(Object.entries(config));
  let commandSet = false;
  for (const change of changes) {
    const [, name = '', rest = ''] = /^\s*(\S+)\s*(.*?)\s*$/s.exec(change) ?? [];
    const instruction = INSTRUCTIONS.get(name.toUpperCase());
    if (instruction === undefined) {
      const known = [...INSTRUCTIONS.keys()].join(', ');
      throw new StorageError('invalid-argument', `Cannot apply the change ${shown(change)}: use one of ${known}`);
    }
    if (/[\r\n]/.test(change)) throw refuse(change, 'it has more than one line, give each instruction by itself');
    instruction(draft, rest, change);
    if (instruction === cmd) commandSet = true;
    // A base's CMD was arguments to its own ENTRYPOINT (docker's builder, dispatchEntrypoint).
    if (instruction === entrypoint && !commandSet) draft.delete('Cmd');
  }
  return Object.fromEntries(draft);
}

type Draft = Map<string, JsonValue>;
type Instruction = (draft: Draft, rest: string, change: string) => void;

const cmd: Instruction = (draft, rest, change) => {
  draft.set('Cmd', commandLine(draft, rest, change));
};
const entrypoint: Instruction = (draft, rest, change) => {
  draft.set('Entrypoint', commandLine(draft, rest, change));
};

const INSTRUCTIONS: ReadonlyMap<string, Instruction> = new Map<string, Instruction>([
  ['CMD', cmd],
  ['ENTRYPOINT', entrypoint],
  [
    'ENV',
    (draft, rest, change) => {
      let env = textsAt(view(draft), 'Env', WHAT);
      for (const [name, value] of pairs(draft, rest, change)) {
        const line = `${name}=${value}`;
        const at = env.findIndex((one) => one.startsWith(`${name}=`) || one === name);
        env = at < 0 ? [...env, line] : env.with(at, line);
      }
      draft.set('Env', env);
    },
  ],
  [
    'LABEL',
    (draft, rest, change) => {
      const labels = new Map(textMapAt(view(draft), 'Labels', WHAT));
      for (const [name, value] of pairs(draft, rest, change)) labels.set(name, value);
      draft.set('Labels', Object.fromEntries(labels));
    },
  ],
  [
    'EXPOSE',
    (draft, rest, change) => {
      const words = splitWords(rest).flatMap((word) => splitWords(expand(draft, word)));
      addKeys(
        draft,
        'ExposedPorts',
        words.flatMap((word) => ports(word, change)),
        change,
      );
    },
  ],
  [
    'VOLUME',
    (draft, rest, change) => {
      const list = jsonForm(rest, change) ?? splitWords(rest);
      const volumes = list.map((one) => expand(draft, one).trim());
      if (volumes.includes('')) throw refuse(change, 'a volume has no path');
      addKeys(draft, 'Volumes', volumes, change);
    },
  ],
  [
    'ONBUILD',
    (draft, rest, change) => {
      const trigger = /^\S*/.exec(rest)?.[0].toUpperCase() ?? '';
      if (trigger === '') throw refuse(change, 'it names no instruction');
      if (['ONBUILD', 'FROM', 'MAINTAINER'].includes(trigger)) throw refuse(change, `${trigger} cannot be a trigger`);
      draft.set('OnBuild', [...textsAt(view(draft), 'OnBuild', WHAT), rest]);
    },
  ],
  [
    'USER',
    (draft, rest, change) => {
      draft.set('User', single(draft, rest, change));
    },
  ],
  [
    'WORKDIR',
    (draft, rest, change) => {
      const before = textAt(view(draft), 'WorkingDir', WHAT) ?? '';
      const path = posix.resolve('/', before, single(draft, rest, change));
      draft.set('WorkingDir', path);
    },
  ],
]);

function commandLine(draft: Draft, rest: string, change: string): readonly string[] {
  const list = jsonForm(rest, change);
  if (list !== undefined) return list;
  if (rest === '') return [];
  const shell = textsAt(view(draft), 'Shell', WHAT);
  return [...(shell.length > 0 ? shell : ['/bin/sh', '-c']), rest];
}

/** The list of `["a", "b"]`, or undefined for the shell form, which is also what broken JSON is. */
function jsonForm(rest: string, change: string): readonly string[] | undefined {
  if (!rest.startsWith('[')) return undefined;
  let list: unknown;
  try {
    list = JSON.parse(rest);
  } catch {
    return undefined; // Docker too takes `[ -e x ]` for a shell's test command.
  }
  if (Array.isArray(list) && list.every((one) => typeof one === 'string')) return list;
  throw refuse(change, 'its list may hold strings only');
}

/** `a=b "c d"=e`, or the old form `a b c`, whose value is all that follows the name. */
function pairs(draft: Draft, rest: string, change: string): readonly (readonly [string, string])[] {
  const words = splitWords(rest);
  const first = words[0];
  if (first === undefined) throw refuse(change, 'it has no name and no value');
  const split: [string, string][] = [];
  if (first.includes('=')) {
    for (const word of words) {
      const equals = word.indexOf('=');
      if (equals < 0) throw refuse(change, `${shown(word)} has no "=" (quote values that hold spaces)`);
      split.push([word.slice(0, equals), word.slice(equals + 1)]);
    }
  } else {
    const value = rest.slice(first.length).trim();
    if (value === '') throw refuse(change, 'it has no value');
    split.push([first, value]);
  }
  // All values of one instruction see the variables as they were before it.
  return split.map(([name, value]) => {
    const key = expand(draft, name);
    if (key === '') throw refuse(change, 'a name is empty');
    return [key, expand(draft, value)] as const;
  });
}

/** `80`, `80/udp`, `8000-8002/tcp` as Docker's config spells ports. */
function ports(word: string, change: string): readonly string[] {
  const parts = /^([0-9]{1,5})(?:-([0-9]{1,5}))?(?:\/(tcp|udp|sctp))?$/i.exec(word);
  const first = Number(parts?.[1]);
  const last = Number(parts?.[2] ?? first);
  if (parts === null || last > 65535 || first > last)
    throw refuse(change, `${shown(word)} is not PORT[-PORT][/tcp|udp|sctp]`);
  const protocol = (parts[3] ?? 'tcp').toLowerCase();
  return Array.from({ length: last - first + 1 }, (_, i) => `${first + i}/${protocol}`);
}

function addKeys(draft: Draft, field: string, keys: readonly string[], change: string): void {
  if (keys.length === 0) throw refuse(change, 'it has no value');
  const all = new Map<string, JsonValue>(Object.entries(objectAt(view(draft), field, WHAT) ?? {}));
  for (const key of keys) if (!all.has(key)) all.set(key, {});
  draft.set(field, Object.fromEntries(all));
}

function single(draft: Draft, rest: string, change: string): string {
  const value = expand(draft, rest);
  if (value === '') throw refuse(change, 'it has no value');
  return value;
}

function expand(draft: Draft, word: string): string {
  const env = textsAt(view(draft), 'Env', WHAT);
  return expandWord(word, (name) => env.findLast((one) => one.startsWith(`${name}=`))?.slice(name.length + 1));
}

/** One field at a time is read through this; `own` keeps what it inherits out. */
function view(draft: Draft): JsonObject {
  return Object.fromEntries(draft);
}

function refuse(change: string, state: string): StorageError {
  return new StorageError('invalid-argument', `Cannot apply the change ${shown(change)}: ${state}`);
}
