/* The encoding of rpc.h. */
#include "consensus/rpc.h"

#include <stdlib.h>
#include <string.h>

#define VERSION 1
#define ENTRY_HEAD_BYTES 16
#define LIBRAFT_CONFIGURATION_FORMAT 1

/* ---- configurations --------------------------------------------------------------------------------- */

void rpc_configuration_encode(const struct raft_configuration *configuration, struct dn_buffer *out)
{
    dn_buffer_u32(out, configuration->n);
    for (unsigned i = 0; i < configuration->n; i++) {
        const struct raft_server *server = &configuration->servers[i];
        dn_buffer_u64(out, server->id);
        dn_buffer_u8(out, (uint8_t)server->role);
        dn_buffer_blob(out, server->address, strlen(server->address));
    }
}

enum dn_code rpc_configuration_decode(struct dn_reader *reader, struct raft_configuration *ret,
                                      struct dn_error *err)
{
    struct raft_configuration configuration;
    uint32_t count = dn_reader_u32(reader);
    if (reader->failed || count > RPC_SERVERS_MAX) {
        return dn_fail(err, DN_CORRUPT, "a configuration of %u servers", count);
    }
    raft_configuration_init(&configuration);
    for (uint32_t i = 0; i < count; i++) {
        char address[RPC_ADDRESS_MAX + 1];
        size_t length = 0;
        uint64_t id = dn_reader_u64(reader);
        uint8_t role = dn_reader_u8(reader);
        const uint8_t *text = dn_reader_blob(reader, RPC_ADDRESS_MAX, &length);
        if (reader->failed || id == 0 || length == 0 || memchr(text, 0, length) != NULL ||
            (role != RAFT_STANDBY && role != RAFT_VOTER && role != RAFT_SPARE)) {
            raft_configuration_close(&configuration);
            return dn_fail(err, DN_CORRUPT, "server %u of a configuration is malformed", i);
        }
        memcpy(address, text, length);
        address[length] = 0;
        int rv = raft_configuration_add(&configuration, id, address, role);
        if (rv != 0) {
            raft_configuration_close(&configuration);
            return dn_fail(err, rv == RAFT_NOMEM ? DN_NO_MEMORY : DN_CORRUPT,
                           "server %u of a configuration: %s", i, raft_strerror(rv));
        }
    }
    *ret = configuration;
    return DN_OK;
}

void rpc_configuration_entry(const struct raft_configuration *configuration, struct dn_buffer *out)
{
    dn_buffer_u8(out, LIBRAFT_CONFIGURATION_FORMAT);
    dn_buffer_u64(out, configuration->n);
    for (unsigned i = 0; i < configuration->n; i++) {
        const struct raft_server *server = &configuration->servers[i];
        dn_buffer_u64(out, server->id);
        dn_buffer_append(out, server->address, strlen(server->address) + 1);
        dn_buffer_u8(out, (uint8_t)server->role);
    }
    dn_buffer_pad(out, 8);
}

/* ---- encoding --------------------------------------------------------------------------------------- */

unsigned rpc_entries_fit(const struct raft_append_entries *append, size_t bytes_max)
{
    unsigned fit = 0;
    size_t bytes = 0;
    while (fit < append->n_entries && fit < RPC_ENTRIES_MAX) {
        bytes += ENTRY_HEAD_BYTES + append->entries[fit].buf.len;
        if (fit > 0 && (bytes > bytes_max || append->entries[fit].type == RAFT_CHANGE)) {
            break;
        }
        fit++;
    }
    return fit;
}

static void put_append(const struct raft_append_entries *append, unsigned entries, struct dn_buffer *out)
{
    dn_buffer_u64(out, append->term);
    dn_buffer_u64(out, append->prev_log_index);
    dn_buffer_u64(out, append->prev_log_term);
    dn_buffer_u64(out, append->leader_commit);
    dn_buffer_u32(out, entries);
    for (unsigned i = 0; i < entries; i++) {
        const struct raft_entry *entry = &append->entries[i];
        dn_buffer_u64(out, entry->term);
        dn_buffer_u8(out, (uint8_t)entry->type);
        dn_buffer_u8(out, 0);
        dn_buffer_u16(out, 0);
        dn_buffer_u32(out, (uint32_t)entry->buf.len);
    }
}

static void put_install(const struct raft_install_snapshot *install, struct dn_buffer *out)
{
    dn_buffer_u64(out, install->term);
    dn_buffer_u64(out, install->last_index);
    dn_buffer_u64(out, install->last_term);
    dn_buffer_u64(out, install->conf_index);
    rpc_configuration_encode(&install->conf, out);
    dn_buffer_u32(out, (uint32_t)install->data.len);
}

static unsigned char version_of(const struct raft_message *message)
{
    switch (message->type) {
    case RAFT_REQUEST_VOTE:
        return message->request_vote.version;
    case RAFT_REQUEST_VOTE_RESULT:
        return message->request_vote_result.version;
    case RAFT_APPEND_ENTRIES:
        return message->append_entries.version;
    case RAFT_APPEND_ENTRIES_RESULT:
        return message->append_entries_result.version;
    case RAFT_INSTALL_SNAPSHOT:
        return message->install_snapshot.version;
    case RAFT_TIMEOUT_NOW:
        return message->timeout_now.version;
    }
    return 0;
}

void rpc_encode(const struct raft_message *message, uint32_t group, unsigned entries, struct dn_buffer *out)
{
    dn_buffer_u8(out, MESSAGE_RAFT);
    dn_buffer_u8(out, VERSION);
    dn_buffer_u8(out, (uint8_t)message->type);
    dn_buffer_u8(out, version_of(message));
    dn_buffer_u8(out, 0);
    dn_buffer_u32(out, group);
    switch (message->type) {
    case RAFT_REQUEST_VOTE:
        dn_buffer_u64(out, message->request_vote.term);
        dn_buffer_u64(out, message->request_vote.candidate_id);
        dn_buffer_u64(out, message->request_vote.last_log_index);
        dn_buffer_u64(out, message->request_vote.last_log_term);
        dn_buffer_u8(out, message->request_vote.disrupt_leader);
        dn_buffer_u8(out, message->request_vote.pre_vote);
        return;
    case RAFT_REQUEST_VOTE_RESULT:
        dn_buffer_u64(out, message->request_vote_result.term);
        dn_buffer_u8(out, message->request_vote_result.vote_granted);
        dn_buffer_u8(out, message->request_vote_result.pre_vote);
        dn_buffer_u16(out, message->request_vote_result.features);
        dn_buffer_u16(out, message->request_vote_result.capacity);
        return;
    case RAFT_APPEND_ENTRIES:
        put_append(&message->append_entries, entries, out);
        return;
    case RAFT_APPEND_ENTRIES_RESULT:
        dn_buffer_u64(out, message->append_entries_result.term);
        dn_buffer_u64(out, message->append_entries_result.rejected);
        dn_buffer_u64(out, message->append_entries_result.last_log_index);
        dn_buffer_u16(out, message->append_entries_result.features);
        dn_buffer_u16(out, message->append_entries_result.capacity);
        return;
    case RAFT_INSTALL_SNAPSHOT:
        put_install(&message->install_snapshot, out);
        return;
    case RAFT_TIMEOUT_NOW:
        dn_buffer_u64(out, message->timeout_now.term);
        dn_buffer_u64(out, message->timeout_now.last_log_index);
        dn_buffer_u64(out, message->timeout_now.last_log_term);
        return;
    }
}

/* ---- decoding --------------------------------------------------------------------------------------- */

static bool get_bool(struct dn_reader *reader)
{
    uint8_t value = dn_reader_u8(reader);
    reader->failed |= value > 1;
    return value == 1;
}

/* The entries' heads are read twice: once to know that all of it is sound, once to fill in. */
static enum dn_code get_entries(struct dn_reader *reader, struct raft_append_entries *append,
                                struct dn_error *err)
{
    uint32_t count = dn_reader_u32(reader);
    const uint8_t *heads = NULL;
    if (count <= RPC_ENTRIES_MAX) {
        heads = dn_reader_bytes(reader, (size_t)count * ENTRY_HEAD_BYTES);
    }
    if (heads == NULL || reader->failed) {
        return dn_fail(err, DN_CORRUPT, "AppendEntries with %u entries is cut short", count);
    }
    append->entries = NULL;
    append->n_entries = count;
    if (count == 0) {
        return DN_OK;
    }
    struct raft_entry *entries = raft_calloc(count, sizeof *entries);
    struct dn_reader head;
    uint64_t total = 0;
    if (entries == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "AppendEntries with %u entries", count);
    }
    dn_reader_init(&head, heads, (size_t)count * ENTRY_HEAD_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        entries[i].term = dn_reader_u64(&head);
        uint8_t type = dn_reader_u8(&head);
        uint32_t zero = (uint32_t)dn_reader_u8(&head) | dn_reader_u16(&head);
        uint32_t length = dn_reader_u32(&head);
        /* libraft refuses lengths that are no multiple of 8, and a change of configuration that it cannot
         * read */
        if (entries[i].term == 0 || zero != 0 || length == 0 || length % 8 != 0 ||
            length > RPC_ENTRY_BYTES_MAX ||
            (type != RAFT_COMMAND && type != RAFT_BARRIER && type != RAFT_CHANGE)) {
            raft_free(entries);
            return dn_fail(err, DN_CORRUPT, "AppendEntries: entry %u of type %u has %u bytes", i, type,
                           length);
        }
        entries[i].type = type;
        entries[i].buf.len = length;
        total += length;
    }
    const uint8_t *payload = total == dn_reader_left(reader) ? dn_reader_bytes(reader, total) : NULL;
    uint8_t *batch = payload == NULL ? NULL : raft_malloc(total);
    if (batch == NULL) {
        raft_free(entries);
        return payload == NULL
                   ? dn_fail(err, DN_CORRUPT, "AppendEntries: %llu bytes of entries announced",
                             (unsigned long long)total)
                   : dn_fail(err, DN_NO_MEMORY, "AppendEntries of %llu bytes", (unsigned long long)total);
    }
    memcpy(batch, payload, total);
    total = 0;
    for (uint32_t i = 0; i < count; i++) {
        entries[i].buf.base = batch + total;
        entries[i].batch = batch;
        total += entries[i].buf.len;
    }
    append->entries = entries;
    return DN_OK;
}

static bool configuration_entry_sound(const struct raft_buffer *buf)
{
    struct dn_reader reader;
    dn_reader_init(&reader, buf->base, buf->len);
    uint8_t format = dn_reader_u8(&reader);
    uint64_t count = dn_reader_u64(&reader);
    if (reader.failed || format != LIBRAFT_CONFIGURATION_FORMAT || count == 0 || count > RPC_SERVERS_MAX) {
        return false;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t id = dn_reader_u64(&reader);
        uint8_t byte = 1;
        size_t length = 0;
        while (!reader.failed && byte != 0 && length <= RPC_ADDRESS_MAX) {
            byte = dn_reader_u8(&reader);
            length++;
        }
        uint8_t role = dn_reader_u8(&reader);
        if (reader.failed || id == 0 || byte != 0 || length < 2 || role > RAFT_SPARE) {
            return false;
        }
    }
    return dn_reader_left(&reader) < 8;
}

static enum dn_code get_append(struct dn_reader *reader, struct raft_append_entries *append,
                               struct dn_error *err)
{
    append->term = dn_reader_u64(reader);
    append->prev_log_index = dn_reader_u64(reader);
    append->prev_log_term = dn_reader_u64(reader);
    append->leader_commit = dn_reader_u64(reader);
    enum dn_code code = get_entries(reader, append, err);
    for (unsigned i = 0; code == DN_OK && i < append->n_entries; i++) {
        if (append->entries[i].type == RAFT_CHANGE && !configuration_entry_sound(&append->entries[i].buf)) {
            code = dn_fail(err, DN_CORRUPT, "AppendEntries: entry %u holds no sound configuration", i);
            raft_free(append->entries[0].batch);
            raft_free(append->entries);
            append->entries = NULL;
        }
    }
    return code;
}

static enum dn_code get_install(struct dn_reader *reader, struct raft_install_snapshot *install,
                                struct dn_error *err)
{
    install->term = dn_reader_u64(reader);
    install->last_index = dn_reader_u64(reader);
    install->last_term = dn_reader_u64(reader);
    install->conf_index = dn_reader_u64(reader);
    enum dn_code code = rpc_configuration_decode(reader, &install->conf, err);
    if (code != DN_OK) {
        return code;
    }
    uint32_t length = dn_reader_u32(reader);
    const uint8_t *data = length <= RPC_DATA_MAX ? dn_reader_bytes(reader, length) : NULL;
    install->data.base = NULL;
    if (data == NULL || length == 0 || install->last_index == 0 || install->conf.n == 0) {
        code = dn_fail(err, DN_CORRUPT, "InstallSnapshot with %u bytes of manifest", length);
    } else if ((install->data.base = raft_malloc(length)) == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "InstallSnapshot");
    } else {
        memcpy(install->data.base, data, length);
        install->data.len = length;
        return DN_OK;
    }
    raft_configuration_close(&install->conf);
    return code;
}

static enum dn_code get_fields(struct dn_reader *reader, struct raft_message *message, unsigned char version,
                               struct dn_error *err)
{
    switch (message->type) {
    case RAFT_REQUEST_VOTE:
        message->request_vote.version = version;
        message->request_vote.term = dn_reader_u64(reader);
        message->request_vote.candidate_id = dn_reader_u64(reader);
        message->request_vote.last_log_index = dn_reader_u64(reader);
        message->request_vote.last_log_term = dn_reader_u64(reader);
        message->request_vote.disrupt_leader = get_bool(reader);
        message->request_vote.pre_vote = get_bool(reader);
        return DN_OK;
    case RAFT_REQUEST_VOTE_RESULT:
        message->request_vote_result.version = version;
        message->request_vote_result.term = dn_reader_u64(reader);
        message->request_vote_result.vote_granted = get_bool(reader);
        message->request_vote_result.pre_vote = get_bool(reader);
        message->request_vote_result.features = dn_reader_u16(reader);
        message->request_vote_result.capacity = dn_reader_u16(reader);
        return DN_OK;
    case RAFT_APPEND_ENTRIES:
        message->append_entries.version = version;
        return get_append(reader, &message->append_entries, err);
    case RAFT_APPEND_ENTRIES_RESULT:
        message->append_entries_result.version = version;
        message->append_entries_result.term = dn_reader_u64(reader);
        message->append_entries_result.rejected = dn_reader_u64(reader);
        message->append_entries_result.last_log_index = dn_reader_u64(reader);
        message->append_entries_result.features = dn_reader_u16(reader);
        message->append_entries_result.capacity = dn_reader_u16(reader);
        return DN_OK;
    case RAFT_INSTALL_SNAPSHOT:
        message->install_snapshot.version = version;
        return get_install(reader, &message->install_snapshot, err);
    case RAFT_TIMEOUT_NOW:
        message->timeout_now.version = version;
        message->timeout_now.term = dn_reader_u64(reader);
        message->timeout_now.last_log_index = dn_reader_u64(reader);
        message->timeout_now.last_log_term = dn_reader_u64(reader);
        return DN_OK;
    }
    return dn_fail(err, DN_CORRUPT, "a Raft message of unknown type %u", (unsigned)message->type);
}

enum dn_code rpc_decode(const uint8_t *bytes, size_t length, struct raft_message *ret, uint32_t *ret_group,
                        struct dn_error *err)
{
    struct raft_message message;
    struct dn_reader reader;
    memset(&message, 0, sizeof message);
    dn_reader_init(&reader, bytes, length);
    uint8_t version = dn_reader_u8(&reader);
    uint8_t type = dn_reader_u8(&reader);
    uint8_t raft_version = dn_reader_u8(&reader);
    uint8_t zero = dn_reader_u8(&reader);
    uint32_t group = dn_reader_u32(&reader);
    if (reader.failed || version != VERSION || zero != 0) {
        return dn_fail(err, DN_CORRUPT, "a Raft message of version %u in %zu bytes", version, length);
    }
    message.type = type;
    enum dn_code code = get_fields(&reader, &message, raft_version, err);
    if (code != DN_OK) {
        return code;
    }
    if (reader.failed || dn_reader_left(&reader) > 0) {
        rpc_free(&message);
        return dn_fail(err, DN_CORRUPT, "a Raft message of type %u has a wrong length (%zu bytes)", type,
                       length);
    }
    *ret = message;
    *ret_group = group;
    return DN_OK;
}

void rpc_free(struct raft_message *message)
{
    if (message->type == RAFT_APPEND_ENTRIES && message->append_entries.entries != NULL) {
        raft_free(message->append_entries.entries[0].batch);
        raft_free(message->append_entries.entries);
        message->append_entries.entries = NULL;
    } else if (message->type == RAFT_INSTALL_SNAPSHOT) {
        raft_configuration_close(&message->install_snapshot.conf);
        raft_free(message->install_snapshot.data.base);
        message->install_snapshot.data.base = NULL;
    }
}
