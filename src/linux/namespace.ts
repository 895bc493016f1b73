import type { ByteString } from '../base/bytes.ts';
import { cstring, judge, libc } from './libc.ts';

export const CLONE_FS = 0x200;
export const CLONE_NEWNS = 0x20000;

/** unshare(2) for the calling thread: with CLONE_FS its root, working directory and umask become its own. */
export function unshare(flags: number, ...tolerated: number[]): number {
  return judge(libc.unshare(flags), 'unshare', 'this thread', tolerated);
}

/** chroot(2): only in a thread that did unshare(CLONE_FS), or the whole process is jailed. */
export function chroot(path: ByteString): void {
  judge(libc.chroot(cstring(path)), 'change the root to', path, []);
}

export function fchdir(fd: number): void {
  judge(libc.fchdir(fd), 'enter', fd, []);
}

export function chdir(path: ByteString): void {
  judge(libc.chdir(cstring(path)), 'enter', path, []);
}

/** Sets the thread's umask (the process's, before unshare(CLONE_FS)); answers the old one. */
export function umask(mask: number): number {
  return libc.umask(mask);
}

/** setns(2): the calling thread enters the mount namespace; it must have done unshare(CLONE_FS). */
export function setMountNamespace(fd: number): void {
  judge(libc.setns(fd, CLONE_NEWNS), 'enter the mount namespace of', fd, []);
}
