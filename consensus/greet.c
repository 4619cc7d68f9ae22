#include "consensus/greet.h"

#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GREET_VERSION 1
#define FLAG_REPLY 1u
#define FLAG_EMPTY 2u

const struct listed *member_list_find(const struct member_list *list, uint64_t raft_id)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (list->of[i].raft_id == raft_id) {
            return &list->of[i];
        }
    }
    return NULL;
}

const struct listed *member_list_named(const struct member_list *list, uint64_t node_id)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (list->of[i].node_id == node_id) {
            return &list->of[i];
        }
    }
    return NULL;
}

/* ---- a member in a configuration ----------------------------------------------------------------------- */

void member_text(const struct listed *member, char ret_text[MEMBER_TEXT_MAX])
{
    int n = snprintf(ret_text, MEMBER_TEXT_MAX,
                     "node=%" PRIu64 ";at=%s;raft=%016" PRIx64 ";replaces=%016" PRIx64 ";stays=%d",
                     member->node_id, member->address, member->raft_id, member->replaces,
                     member->role == DN_ROLE_REPLICA);
    DN_ASSERT(n > 0 && n < MEMBER_TEXT_MAX);
}

static bool valid_address(const char *address)
{
    char host[DN_ADDRESS_MAX];
    uint16_t port;
    for (const char *p = address; *p != 0; p++) {
        if (*p <= ' ' || *p > '~' || *p == ';') {
            return false;
        }
    }
    return strlen(address) < DN_ADDRESS_MAX && dn_parse_address(address, host, &port) && port != 0;
}

bool member_parse(const char *text, int raft_role, struct listed *ret)
{
    char again[MEMBER_TEXT_MAX];
    const char *at = strstr(text, ";at="), *raft = strstr(text, ";raft="),
               *replaces = strstr(text, ";replaces="), *stays = strstr(text, ";stays=");
    if (strncmp(text, "node=", 5) != 0 || at == NULL || raft == NULL || replaces == NULL || stays == NULL ||
        raft < at || replaces < raft || stays < replaces || (size_t)(raft - at) - 4 >= sizeof ret->address) {
        return false;
    }
    memset(ret, 0, sizeof *ret);
    ret->node_id = strtoull(text + 5, NULL, 10);
    memcpy(ret->address, at + 4, (size_t)(raft - at) - 4);
    ret->raft_id = strtoull(raft + 6, NULL, 16);
    ret->replaces = strtoull(replaces + 10, NULL, 16);
    ret->role = strcmp(stays, ";stays=1") == 0 ? DN_ROLE_REPLICA : DN_ROLE_LEARNER;
    if (!valid_address(ret->address) || ret->node_id == 0) {
        return false;
    }
    member_text(ret, again);
    if (strcmp(again, text) != 0) { /* what is not as we write it is not ours */
        return false;
    }
    if (raft_role == RAFT_VOTER) {
        ret->role = DN_ROLE_VOTER;
    }
    return true;
}

enum dn_code member_list_from(const struct raft_configuration *configuration, struct member_list *ret,
                              struct dn_error *err)
{
    ret->count = 0;
    if (configuration->n > DN_MEMBERS_MAX) {
        return dn_fail(err, DN_CORRUPT, "a configuration of %u members; this version knows at most %d",
                       configuration->n, DN_MEMBERS_MAX);
    }
    for (unsigned i = 0; i < configuration->n; i++) {
        const struct raft_server *server = &configuration->servers[i];
        struct listed *m = &ret->of[ret->count++];
        if (!member_parse(server->address, server->role, m) || m->raft_id != server->id) {
            return dn_fail(err, DN_CORRUPT, "a configuration has '%.64s', which names no member",
                           server->address);
        }
    }
    return DN_OK;
}

/* ---- greetings ----------------------------------------------------------------------------------------- */

static void put_list(const struct member_list *list, struct dn_buffer *out)
{
    dn_buffer_u32(out, list->count);
    for (unsigned i = 0; i < list->count; i++) {
        const struct listed *m = &list->of[i];
        dn_buffer_u64(out, m->raft_id);
        dn_buffer_u64(out, m->node_id);
        dn_buffer_u64(out, m->replaces);
        dn_buffer_u8(out, (uint8_t)m->role);
        dn_buffer_blob(out, m->address, strlen(m->address));
    }
}

void greeting_encode(const struct greeting *g, struct dn_buffer *out)
{
    dn_buffer_u8(out, MESSAGE_GREET);
    dn_buffer_u8(out, GREET_VERSION);
    dn_buffer_u8(out, (uint8_t)((g->reply ? FLAG_REPLY : 0) | (g->empty ? FLAG_EMPTY : 0)));
    dn_buffer_u64(out, g->node_id);
    dn_buffer_blob(out, g->address, strlen(g->address));
    dn_buffer_u32(out, g->group_count);
    dn_buffer_u64(out, g->list_hash);
    dn_buffer_u64(out, g->config_index);
    dn_buffer_u32(out, g->in_groups);
    put_list(&g->members, out);
    put_list(&g->initial, out);
}

static void get_address(struct dn_reader *reader, char ret[DN_ADDRESS_MAX])
{
    size_t length = 0;
    const uint8_t *bytes = dn_reader_blob(reader, DN_ADDRESS_MAX - 1, &length);
    if (reader->failed) {
        return;
    }
    memcpy(ret, bytes, length);
    ret[length] = 0;
    if (strlen(ret) != length || !valid_address(ret)) {
        reader->failed = true;
    }
}

static void get_list(struct dn_reader *reader, struct member_list *ret)
{
    uint32_t count = dn_reader_u32(reader);
    if (count > DN_MEMBERS_MAX) {
        reader->failed = true;
        return;
    }
    for (uint32_t i = 0; i < count && !reader->failed; i++) {
        struct listed *m = &ret->of[i];
        m->raft_id = dn_reader_u64(reader);
        m->node_id = dn_reader_u64(reader);
        m->replaces = dn_reader_u64(reader);
        uint8_t role = dn_reader_u8(reader);
        get_address(reader, m->address);
        if (m->raft_id == 0 || m->node_id == 0 || role < DN_ROLE_LEARNER || role > DN_ROLE_VOTER) {
            reader->failed = true;
        }
        m->role = (enum dn_member_role)role;
        ret->count = i;
        if (!reader->failed && member_list_find(ret, m->raft_id) != NULL) {
            reader->failed = true; /* twice */
        }
    }
    ret->count = count;
}

enum dn_code greeting_decode(const uint8_t *bytes, size_t length, struct greeting *ret, struct dn_error *err)
{
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, length);
    memset(ret, 0, sizeof *ret);
    uint8_t version = dn_reader_u8(&reader);
    if (!reader.failed && version != GREET_VERSION) {
        return dn_fail(err, DN_UNIMPLEMENTED, "a greeting of version %u; this program knows %d", version,
                       GREET_VERSION);
    }
    uint8_t flags = dn_reader_u8(&reader);
    ret->reply = flags & FLAG_REPLY;
    ret->empty = flags & FLAG_EMPTY;
    ret->node_id = dn_reader_u64(&reader);
    get_address(&reader, ret->address);
    ret->group_count = dn_reader_u32(&reader);
    ret->list_hash = dn_reader_u64(&reader);
    ret->config_index = dn_reader_u64(&reader);
    ret->in_groups = dn_reader_u32(&reader);
    if (!reader.failed) {
        get_list(&reader, &ret->members);
    }
    if (!reader.failed) {
        get_list(&reader, &ret->initial);
    }
    if (reader.failed || dn_reader_left(&reader) != 0 || ret->node_id == 0 ||
        flags > (FLAG_REPLY | FLAG_EMPTY)) {
        return dn_fail(err, DN_CORRUPT, "a malformed greeting");
    }
    return DN_OK;
}
