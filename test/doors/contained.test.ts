import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeStrangeImage } from '../interop/strange-image.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { layerstore, shell } from './run-cli.ts';

/** What containerd and Docker give to the root of a container that was asked for nothing more. */
const CONTAINED =
  '-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap';

/** A container's own root is an overlay, which takes no marks of overlay's. */
for (const place of ['a volume', 'the root'] as const) {
  test(`root of a container, who may not mount, has vfs with all of the main path in ${place}`, async (t) => {
    if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'setpriv')) return;
    await using fs = await filesystem('ext4');
    const image = await makeStrangeImage(fs.path);
    const root = join(fs.path, place === 'a volume' ? 'contained' : 'merged/contained');
    if (place === 'the root') {
      for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(join(fs.path, name));
      const how = `lowerdir=${fs.path}/lower,upperdir=${fs.path}/upper,workdir=${fs.path}/work`;
      execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', how, join(fs.path, 'merged')]);
    }
    try {
      const ran = (line: string): string => {
        const { status, stdout, stderr } = shell(
          root,
          `C="setpriv --bounding-set=${CONTAINED} --inh-caps=${CONTAINED}"; ${line}`,
        );
        assert.equal(status, 0, `${line}: ${stderr}`);
        return stdout;
      };
      ran(`$C $L load -i ${image.layout}`);
      assert.match(ran('$C $L info'), /^Driver: vfs$/m);
      const path = ran(`$C $L create ${image.reference} --name work >/dev/null && $C $L mount work`).trim();

      const whole = join(fs.path, 'whole');
      const onVfs = (...args: string[]): string => {
        const { status, stdout, stderr } = layerstore(whole, ['--driver', 'vfs', ...args]);
        assert.equal(status, 0, `${args}: ${stderr}`);
        return stdout;
      };
      onVfs('load', '-i', image.layout);
      onVfs('create', image.reference, '--name', 'work');
      const expected = onVfs('mount', 'work').trim();
      assert.deepEqual(dumpTree(path), dumpTree(expected));
      for (const tree of [path, expected]) {
        writeFileSync(join(tree, 'etc/passwd'), 'changed');
        rmSync(join(tree, 'data'), { recursive: true });
        mkdirSync(join(tree, 'data'));
        writeFileSync(join(tree, 'data/new'), 'new');
      }
      assert.equal(ran('$C $L changes work'), onVfs('changes', 'work'));
      assert.match(ran('$C $L changes work'), /^A \/data\/new$/m);
      ran('$C $L umount work && $C $L commit work changed:1');
      const listed = ran('$C $L export changed:1 | tar -t');
      assert.match(listed, /^data\/new$/m);
      assert.doesNotMatch(listed, /^data\/kept/m);
      ran('$C $L save changed:1 -o - | $C $L --root $LAYERSTORE_ROOT-again load');
      assert.equal(ran('$C $L check --deep --json'), '');
      ran(`$C $L rm work && $C $L rmi changed:1 ${image.reference} && $C $L gc --wait`);
      assert.deepEqual(JSON.parse(ran('$C $L info --json')).layers, 0);
      onVfs('umount', 'work');
    } finally {
      if (place === 'the root') execFileSync('umount', [join(fs.path, 'merged')]);
    }
  });
}
