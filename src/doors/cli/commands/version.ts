import { readFileSync } from 'node:fs';
import { type Command, defineCommand } from '../command.ts';
import { jsonDocument } from '../json.ts';

export const command: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: {},
  async run(context) {
    const { platform, arch, version } = process;
    const line = context.json ? jsonDocument({ version: ownVersion(), node: version, platform, arch }) : versionLine();
    await context.out.line(line);
    return 0;
  },
});

/** `layerstore 0.1.0 (Node v24.21.0, linux x64)` */
export function versionLine(): string {
  return `layerstore ${ownVersion()} (Node ${process.version}, ${process.platform} ${process.arch})`;
}

function ownVersion(): string {
  const text = readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { readonly version: string }).version;
}
