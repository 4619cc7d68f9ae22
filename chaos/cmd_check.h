/* dunlin-chaos check: judges a history that was written before. */
#ifndef DN_CHAOS_CMD_CHECK_H
#define DN_CHAOS_CMD_CHECK_H

/* argv[0] is "check" (it stands in messages); the rest as --help says. Returns the exit code: 0 no rule is
 * violated, 1 one is, 2 wrong usage or a history that cannot be read. */
int chaos_cmd_check(int argc, char **argv);

#endif
