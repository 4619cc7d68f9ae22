/* Private to proxy*.c. */
#ifndef DN_CHAOS_PROXY_INTERNAL_H
#define DN_CHAOS_PROXY_INTERNAL_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/types.h>

/* The inode of this machine's TCP socket at `local` that is connected to `remote`; 0: none. */
uint64_t proxy_socket_inode(const struct sockaddr_in *local, const struct sockaddr_in *remote);
/* The process has that socket open. */
int proxy_process_has(pid_t pid, uint64_t inode);

#endif
