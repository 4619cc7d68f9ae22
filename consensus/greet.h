/* Greet: how nodes tell each other who they are, and how a member is written down. Encoding only.
 *
 * A Raft configuration gives each server an id, an address and a role. dunlin keeps in the address all that
 * it must know of a member, so that the configuration of group 0 is the whole list of members, replicated and
 * rolled back by Raft itself:
 *
 *   node=<decimal>;at=<host:port>;raft=<16 hexadecimal digits>;replaces=<16>;stays=<0 or 1>
 *
 * raft: its raft id (libraft refuses two servers with one address, and a node that lost its disk comes back
 * at the old one); replaces: the raft id of the member it takes the place of (0: none); stays: it is a
 * replica for good, not a learner on its way to a vote.
 *
 * A greeting travels as a message of kind MESSAGE_GREET (rpc.h): u8 version, then the fields in the order of
 * the struct. It comes from a node that proved the cluster's key, perhaps of another version, perhaps not
 * (yet) a member: it is checked as if it came from anyone. */
#ifndef DN_CONSENSUS_GREET_H
#define DN_CONSENSUS_GREET_H

#include "base/buffer.h"
#include "base/error.h"
#include "consensus/consensus.h"

#include <raft.h>

#define MESSAGE_GREET 3
#define GREET_MAX 16384     /* bytes of one */
#define MEMBER_TEXT_MAX 368 /* of a member as it is written in a configuration, with its zero */

/* The members as one configuration has them. */
struct member_list {
    unsigned count;
    struct listed {
        uint64_t raft_id, node_id, replaces;
        enum dn_member_role role;
        char address[DN_ADDRESS_MAX];
    } of[DN_MEMBERS_MAX];
};

struct greeting {
    bool reply; /* an answer to one: it is not answered */
    bool empty; /* the sender is part of no cluster yet */
    uint64_t node_id;
    char address[DN_ADDRESS_MAX];
    uint32_t group_count;
    uint64_t list_hash; /* of the initial members it was configured with */
    /* What a sender that is part of a cluster knows of it: */
    uint64_t config_index; /* of group 0's committed configuration, which is `members` */
    uint32_t in_groups;    /* groups whose committed configuration has the receiver */
    struct member_list members;
    struct member_list initial; /* the first entry of every group's log */
};

const struct listed *member_list_find(const struct member_list *list, uint64_t raft_id);  /* or NULL */
const struct listed *member_list_named(const struct member_list *list, uint64_t node_id); /* or NULL */

void member_text(const struct listed *member, char ret_text[MEMBER_TEXT_MAX]);
/* The role becomes learner or replica, as the text says, or voter. */
bool member_parse(const char *text, int raft_role, struct listed *ret);
/* DN_CORRUPT: a server of it was not written by member_text, or there are too many. */
enum dn_code member_list_from(const struct raft_configuration *configuration, struct member_list *ret,
                              struct dn_error *err);

void greeting_encode(const struct greeting *greeting, struct dn_buffer *out); /* with the kind byte */
/* What follows the kind byte. DN_CORRUPT or DN_UNIMPLEMENTED. */
enum dn_code greeting_decode(const uint8_t *bytes, size_t length, struct greeting *ret, struct dn_error *err);

#endif
