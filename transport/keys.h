/* Keys: the one or two secrets of a cluster, in guarded memory. Private to the room.
 *
 * A secret is readable only between keys_open_for_use and keys_close_after_use. One thread at a time. */
#ifndef DN_TRANSPORT_KEYS_H
#define DN_TRANSPORT_KEYS_H

#include "transport/transport.h"

#define KEYS_MAX 2

struct dn_transport_keys {
    unsigned count;
    bool open; /* no secret: the key is all zeros */
    uint8_t id[KEYS_MAX];
    uint8_t *secret; /* KEYS_MAX * DN_TRANSPORT_KEY_BYTES, sodium_malloc, no access outside use */
};

/* The secrets, readable until keys_close_after_use; NULL when the system refuses. */
const uint8_t *keys_open_for_use(const struct dn_transport_keys *keys);
void keys_close_after_use(const struct dn_transport_keys *keys);

#endif
