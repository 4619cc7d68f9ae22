/* Raft's messages between nodes: consensus/rpc.h. What is taken encodes to the same bytes again. */
#include "base/error.h"
#include "consensus/rpc.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 1000000;

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct raft_message message;
    struct dn_error err;
    struct dn_buffer again;
    uint32_t group;
    if (rpc_decode(bytes, length, &message, &group, &err) != DN_OK)
        return 0;
    unsigned entries = message.type == RAFT_APPEND_ENTRIES ? message.append_entries.n_entries : 0;
    dn_buffer_init(&again, 2 * DN_FUZZ_INPUT_MAX);
    rpc_encode(&message, group, entries, &again);
    for (unsigned i = 0; i < entries; i++)
        dn_buffer_append(&again, message.append_entries.entries[i].buf.base,
                         message.append_entries.entries[i].buf.len);
    if (message.type == RAFT_INSTALL_SNAPSHOT)
        dn_buffer_append(&again, message.install_snapshot.data.base, message.install_snapshot.data.len);
    DN_ASSERT(!again.failed && again.length == length + 1 && memcmp(again.bytes + 1, bytes, length) == 0);
    dn_buffer_free(&again);
    rpc_free(&message);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static uint8_t payload[64];
    struct raft_entry entries[3] = {{2, RAFT_COMMAND, {payload, 16}, NULL},
                                    {2, RAFT_BARRIER, {payload, 8}, NULL},
                                    {3, RAFT_CHANGE, {payload, 0}, NULL}};
    struct raft_message message;
    struct raft_configuration members;
    struct dn_buffer bytes, change;
    memset(&message, 0, sizeof message);
    raft_configuration_init(&members);
    DN_ASSERT(raft_configuration_add(&members, 1, "a:1", RAFT_VOTER) == 0);
    DN_ASSERT(raft_configuration_add(&members, 2, "b:2", RAFT_STANDBY) == 0);
    dn_buffer_init(&bytes, max + 1);
    dn_buffer_init(&change, 1024);
    rpc_configuration_entry(&members, &change);
    entries[2].buf = (struct raft_buffer){change.bytes, change.length};
    switch (n) {
    case 0:
        message.type = RAFT_REQUEST_VOTE;
        message.request_vote = (struct raft_request_vote){2, 5, 1, 10, 4, false, true};
        break;
    case 1:
        message.type = RAFT_REQUEST_VOTE_RESULT;
        message.request_vote_result = (struct raft_request_vote_result){2, 5, true, false, 1, 2};
        break;
    case 2:
        message.type = RAFT_APPEND_ENTRIES;
        message.append_entries = (struct raft_append_entries){1, 5, 10, 4, 9, entries, 3};
        break;
    case 3:
        message.type = RAFT_APPEND_ENTRIES_RESULT;
        message.append_entries_result = (struct raft_append_entries_result){1, 5, 0, 10, 0, 0};
        break;
    case 4:
        message.type = RAFT_INSTALL_SNAPSHOT;
        message.install_snapshot = (struct raft_install_snapshot){1, 5, 100, 4, members, 1, {payload, 40}};
        break;
    case 5:
        message.type = RAFT_TIMEOUT_NOW;
        message.timeout_now = (struct raft_timeout_now){1, 5, 10, 4};
        break;
    default:
        break;
    }
    size_t length = 0;
    if (n < 6) {
        unsigned count = message.type == RAFT_APPEND_ENTRIES ? 3 : 0;
        rpc_encode(&message, 1, count, &bytes);
        for (unsigned i = 0; i < count; i++)
            dn_buffer_append(&bytes, entries[i].buf.base, entries[i].buf.len);
        if (n == 4)
            dn_buffer_append(&bytes, payload, 40);
        DN_ASSERT(!bytes.failed);
        length = bytes.length - 1;
        memcpy(out, bytes.bytes + 1, length);
    }
    raft_configuration_close(&members);
    dn_buffer_free(&bytes);
    dn_buffer_free(&change);
    return length;
}
