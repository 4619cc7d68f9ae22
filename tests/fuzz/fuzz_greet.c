/* Greetings between nodes, and members as a Raft configuration names them: consensus/greet.h. What is taken
 * encodes to what decodes to the same again. */
#include "base/error.h"
#include "consensus/greet.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

const unsigned dn_fuzz_runs = 1000000;

static void check_text(const uint8_t *bytes, size_t length)
{
    char text[MEMBER_TEXT_MAX + 64], again[MEMBER_TEXT_MAX];
    struct listed member;
    if (length >= sizeof text)
        return;
    memcpy(text, bytes, length);
    text[length] = 0;
    if (!member_parse(text, RAFT_STANDBY, &member))
        return;
    member_text(&member, again);
    DN_ASSERT(strcmp(text, again) == 0 && member.node_id != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct greeting greeting, same;
    struct dn_buffer out, twice;
    struct dn_error err;
    check_text(bytes, length);
    if (greeting_decode(bytes, length, &greeting, &err) != DN_OK)
        return 0;
    dn_buffer_init(&out, 2 * GREET_MAX);
    dn_buffer_init(&twice, 2 * GREET_MAX);
    greeting_encode(&greeting, &out);
    DN_ASSERT(!out.failed && out.length <= GREET_MAX && out.bytes[0] == MESSAGE_GREET);
    DN_ASSERT(greeting_decode(out.bytes + 1, out.length - 1, &same, &err) == DN_OK);
    greeting_encode(&same, &twice);
    DN_ASSERT(twice.length == out.length && memcmp(twice.bytes, out.bytes, out.length) == 0);
    dn_buffer_free(&out);
    dn_buffer_free(&twice);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    static struct greeting greeting;
    struct dn_buffer bytes;
    char text[MEMBER_TEXT_MAX];
    struct listed member = {.raft_id = 0xabcdef, .node_id = 3, .replaces = 7, .address = "host-3.local:7101"};
    if (n > 3)
        return 0;
    if (n == 3) {
        member.role = DN_ROLE_REPLICA;
        member_text(&member, text);
        DN_ASSERT(strlen(text) <= max);
        memcpy(out, text, strlen(text));
        return strlen(text);
    }
    memset(&greeting, 0, sizeof greeting);
    greeting.empty = n == 0;
    greeting.reply = n == 2;
    greeting.node_id = n + 1;
    greeting.group_count = 5;
    greeting.list_hash = 77;
    memcpy(greeting.address, "127.0.0.1:7101", 15);
    greeting.config_index = n * 100;
    for (unsigned i = 0; i < n * 3; i++) {
        struct listed *m = &greeting.members.of[greeting.members.count++];
        *m = member;
        m->raft_id = i + 1;
        m->role = (enum dn_member_role)(DN_ROLE_LEARNER + i % 3);
    }
    greeting.initial = greeting.members;
    dn_buffer_init(&bytes, GREET_MAX);
    greeting_encode(&greeting, &bytes);
    DN_ASSERT(!bytes.failed && bytes.length - 1 <= max);
    memcpy(out, bytes.bytes + 1, bytes.length - 1);
    size_t length = bytes.length - 1;
    dn_buffer_free(&bytes);
    return length;
}
