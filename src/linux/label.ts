import { existsSync } from 'node:fs';

/** Whether this kernel runs SELinux, without which a `context=` mount option is EINVAL. */
export function hasSelinux(): boolean {
  return existsSync('/sys/fs/selinux/enforce');
}
