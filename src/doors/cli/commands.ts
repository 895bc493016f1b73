import type { Command } from './command.ts';

export interface CommandEntry {
  readonly summary: string;
  /** Reads the command's file, and only that one: starting must not cost what is not used. */
  load(): Promise<{ readonly command: Command }>;
}

export interface CommandGroup {
  readonly title: string;
  readonly commands: ReadonlyMap<string, CommandEntry>;
}

/** All commands, in the order of the help. A verb of a group (`driver status`) has a blank in its name. */
// biome-ignore format: a table
export const GROUPS: readonly CommandGroup[] = [
  { title: 'Images and layers', commands: new Map<string, CommandEntry>([
    ['load',    { summary: 'read images from an archive, an OCI layout or a pipe', load: () => import('./commands/load.ts') }],
    ['save',    { summary: 'write images as an archive or an OCI layout', load: () => import('./commands/save.ts') }],
    ['export',  { summary: 'write the tree of an image or a writable layer as one tar', load: () => import('./commands/export.ts') }],
    ['images',  { summary: 'list images', load: () => import('./commands/images.ts') }],
    ['tag',     { summary: 'give an image another name', load: () => import('./commands/tag.ts') }],
    ['rmi',     { summary: 'take names away, and images with their last name', load: () => import('./commands/rmi.ts') }],
    ['inspect', { summary: 'all that is known of an image or a writable layer, as JSON', load: () => import('./commands/inspect.ts') }],
    ['history', { summary: 'how an image was made', load: () => import('./commands/history.ts') }],
    ['layers',  { summary: 'layers of images, bottom first', load: () => import('./commands/layers.ts') }],
  ]) },
  { title: 'Writable layers', commands: new Map<string, CommandEntry>([
    ['create',  { summary: 'make a writable layer on an image, or on nothing', load: () => import('./commands/create.ts') }],
    ['mount',   { summary: 'mount a writable layer, or an image read-only, and print where', load: () => import('./commands/mount.ts') }],
    ['umount',  { summary: 'let go of a mount', load: () => import('./commands/umount.ts') }],
    ['cp',      { summary: 'copy files into a writable layer or out of one', load: () => import('./commands/cp.ts') }],
    ['ls',      { summary: 'list writable layers', load: () => import('./commands/ls.ts') }],
    ['changes', { summary: 'what a writable layer changed', load: () => import('./commands/changes.ts') }],
    ['diff',    { summary: 'write what a writable layer changed as a layer tar', load: () => import('./commands/diff.ts') }],
    ['commit',  { summary: 'make a new image of a writable layer', load: () => import('./commands/commit.ts') }],
    ['rm',      { summary: 'remove writable layers', load: () => import('./commands/rm.ts') }],
  ]) },
  { title: 'Upkeep', commands: new Map<string, CommandEntry>([
    ['info',    { summary: 'root, driver and why, counts', load: () => import('./commands/info.ts') }],
    ['doctor',  { summary: 'what this machine can do, and why not more', load: () => import('./commands/doctor.ts') }],
    ['gc',      { summary: 'remove what no name reaches', load: () => import('./commands/gc.ts') }],
    ['check',   { summary: 'look for faults in the store', load: () => import('./commands/check.ts') }],
    ['version', { summary: 'print the version', load: () => import('./commands/version.ts') }],
    ['help',    { summary: 'print this, or how to use a command', load: () => import('./commands/help.ts') }],
  ]) },
  { title: 'Driver plumbing (the home is ROOT/DRIVER)', commands: new Map<string, CommandEntry>([
    verb('status',   'what the driver says of itself'),
    verb('create',   'make a layer'),
    verb('get',      'mount a layer, or join its mount, and print where'),
    verb('put',      'let go of what get mounted'),
    verb('exists',   'print true or false'),
    verb('metadata', 'the directories of a layer'),
    verb('diff',     'write what a layer changed as a tar'),
    verb('changes',  'list what a layer changed'),
    verb('apply',    'unpack a tar into a layer, and print its bytes'),
    verb('size',     'bytes of the files that a layer adds or changes'),
    verb('remove',   'remove a layer'),
    verb('cleanup',  'unmount what the driver mounted'),
    verb('list',     'list layers'),
  ]) },
  { title: 'Overlay plumbing (mounts as JSON, without a store)', commands: new Map<string, CommandEntry>([
    overlay('upperdir', 'the directory that holds what one mount has more than another'),
    overlay('changes',  'list what it changes, a JSON object a line'),
    overlay('write',    'write what it changes as a layer tar'),
  ]) },
];

/** The verbs share one file; each is loaded as if it were its own. */
function verb(name: keyof typeof import('./commands/driver.ts'), summary: string): [string, CommandEntry] {
  return [`driver ${name}`, { summary, load: async () => ({ command: (await import('./commands/driver.ts'))[name] }) }];
}

function overlay(name: keyof typeof import('./commands/overlay.ts'), summary: string): [string, CommandEntry] {
  return [
    `overlay ${name}`,
    { summary, load: async () => ({ command: (await import('./commands/overlay.ts'))[name] }) },
  ];
}

/** The command of that name. */
export function findCommand(name: string): CommandEntry | undefined {
  for (const { commands } of GROUPS) {
    const entry = commands.get(name);
    if (entry !== undefined) return entry;
  }
  return undefined;
}

/** True where commands of several words begin so: `driver`. */
export function isGroup(word: string): boolean {
  return GROUPS.some(({ commands }) => [...commands.keys()].some((name) => name.startsWith(`${word} `)));
}
