/* dunlind's configuration: what loads, and what is refused with file, line, key and reason. */
#include "node/config.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MINIMAL "node: {id: 1, data_dir: /tmp/x}\ncluster: {id: c}\n"

static struct dn_config config;
static struct dn_error err;

static enum dn_code parse(const char *text)
{
    memset(&err, 0, sizeof(err));
    return dn_config_parse("a.yaml", text, strlen(text), &config, &err);
}

/* The text is refused with a message that starts and goes on like this. */
static void refused(const char *text, const char *start, const char *inside)
{
    if (parse(text) != DN_INVALID)
        fail_msg("not refused: %s", text);
    if (strncmp(err.message, start, strlen(start)) != 0 || !strstr(err.message, inside))
        fail_msg("'%s' is not '%s...%s'", err.message, start, inside);
}

static void minimal_file_gets_the_defaults(void **state)
{
    struct dn_shard_settings shard, shard_default;
    struct dn_recommend_settings recommend, recommend_default;

    (void)state;
    if (parse(MINIMAL) != DN_OK)
        fail_msg("%s", err.message);
    assert_int_equal(config.cluster.shards, 4);
    assert_string_equal(config.api.address, "127.0.0.1:7070");
    assert_string_equal(config.admin.address, "127.0.0.1:7072");
    assert_int_equal(config.cluster.member_count, 1);
    assert_string_equal(config.node.name, "node1");
    assert_string_equal(dn_config_self(&config)->address, "127.0.0.1:7071");
    assert_int_equal(config.raft.snapshot_log_bytes, 64u << 20);
    /* The defaults written in the table are the rooms' own. */
    dn_config_shard_settings(&config, &shard);
    dn_shard_settings_default(&shard_default);
    assert_int_equal(shard.gap_ms, shard_default.gap_ms);
    assert_int_equal(shard.lateness_ms, shard_default.lateness_ms);
    assert_int_equal(shard.ahead_ms, shard_default.ahead_ms);
    assert_int_equal(shard.idle_ms, shard_default.idle_ms);
    assert_int_equal(shard.events_per_user, shard_default.events_per_user);
    assert_int_equal(shard.ids_per_user, shard_default.ids_per_user);
    assert_int_equal(shard.users_max, shard_default.users_max);
    assert_int_equal(shard.items_max, shard_default.items_max);
    assert_int_equal(shard.trend_half_life_ms, shard_default.trend_half_life_ms);
    assert_int_equal(shard.near_cells, shard_default.near_cells);
    assert_int_equal(shard.near_visitors, shard_default.near_visitors);
    assert_int_equal(shard.near_half_life_ms, shard_default.near_half_life_ms);
    dn_config_recommend_settings(&config, &recommend);
    dn_recommend_settings_default(&recommend_default);
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        assert_true(recommend.type_weight[type] == recommend_default.type_weight[type]);
    assert_true(recommend.recency_decay == recommend_default.recency_decay);
    assert_int_equal(recommend.time_half_life_ms, recommend_default.time_half_life_ms);
    assert_int_equal(recommend.session_events_used, recommend_default.session_events_used);
    assert_int_equal(recommend.interests, recommend_default.interests);
}

static void a_whole_cluster_loads(void **state)
{
    (void)state;
    if (parse("node:\n"
              "  id: 2\n"
              "  data_dir: \"/tmp/with space\"\n"
              "cluster:\n"
              "  id: demo\n"
              "  shards: 1\n"
              "  members:\n"
              "    - {id: 1, name: a, address: \"127.0.0.1:7171\"}\n"
              "    - id: 2\n"
              "      name: b\n"
              "      address: 127.0.0.1:7172\n"
              "    - {id: 3, name: c, address: \"[::1]:7173\"}\n"
              "raft: {segment_bytes: 1MiB, heartbeat_ms: 100}\n"
              "recommend: {type_weights: {dislike: -3.25}, recency_decay: 1}\n"
              "freshness_alarm_ms: 700\n") != DN_OK)
        fail_msg("%s", err.message);
    assert_int_equal(config.cluster.member_count, 3);
    assert_string_equal(config.node.name, "b");
    assert_string_equal(config.node.data_dir, "/tmp/with space");
    assert_int_equal(config.raft.segment_bytes, 1 << 20);
    assert_true(config.recommend.type_weight[DN_EVENT_DISLIKE] == -3.25);
    assert_int_equal(config.freshness_alarm_ms, 700);
}

static void unknown_keys_are_refused(void **state)
{
    (void)state;
    refused(MINIMAL "rft:\n  tick_ms: 5\n", "a.yaml:3: rft: unknown key", "remove it");
    refused(MINIMAL "raft:\n  tick_ms: 200\n  election_timeot_ms: 5\n",
            "a.yaml:5: raft.election_timeot_ms: unknown key", "did you mean raft.election_timeout_ms?");
    refused(MINIMAL "raft.tick_ms: 200\n", "a.yaml:3: raft.tick_ms: unknown key", "");
    refused("node: {id: 1, data_dir: /x}\ncluster:\n  id: c\n  members:\n    - {id: 1, name: a, addres: b}\n",
            "a.yaml:5: cluster.members[].addres: unknown key", "cluster.members[].address");
    refused(MINIMAL "cluster.members[].id: 5\n", "a.yaml:3: ", "unknown key");
}

static void wrong_types_are_refused(void **state)
{
    (void)state;
    refused(MINIMAL "raft:\n  tick_ms: soon\n", "a.yaml:4: raft.tick_ms: ", "whole number, not 'soon'");
    refused(MINIMAL "raft:\n  tick_ms: \"200\"\n", "a.yaml:4: raft.tick_ms: ", "without quotes");
    refused(MINIMAL "raft:\n  tick_ms: 2.5\n", "a.yaml:4: raft.tick_ms: ", "whole number");
    refused(MINIMAL "raft:\n  tick_ms: [200]\n", "a.yaml:4: raft.tick_ms: ", "not a list");
    refused(MINIMAL "raft: 5\n", "a.yaml:3: raft: ", "keys and values");
    refused(MINIMAL "raft:\n", "a.yaml:3: raft: ", "keys and values");
    refused(MINIMAL "peers: {allow_without_key: yes}\n",
            "a.yaml:3: peers.allow_without_key: ", "true or false");
    refused(MINIMAL "recommend: {recency_decay: nan}\n", "a.yaml:3: recommend.recency_decay: ", "a number");
    refused(MINIMAL "raft: {segment_bytes: 4 megs}\n", "a.yaml:3: raft.segment_bytes: ", "64MiB");
    refused(MINIMAL "api: {address: nowhere}\n", "a.yaml:3: api.address: ", "127.0.0.1:7070");
    refused(MINIMAL "api: {address: ''}\n", "a.yaml:3: api.address: ", "not empty");
    refused("- a\n- b\n", "a.yaml:1: ", "keys and values, not a list");
    refused("node: {id: 1, data_dir: /x}\ncluster: {id: c, members: 5}\n",
            "a.yaml:2: cluster.members: ", "a list of");
    refused("node: {id: 1, data_dir: /x}\ncluster: {id: c, members: [5]}\n",
            "a.yaml:2: cluster.members: ", "a list of");
    refused(MINIMAL "? [a, b]\n: 5\n", "a.yaml:3: ", "key must be short text");
    refused(MINIMAL "log: {level: loud}\n", "a.yaml:3: log.level: ", "debug, info, warn or error");
}

static void bad_ranges_are_refused(void **state)
{
    (void)state;
    refused("node: {id: 0, data_dir: /x}\ncluster: {id: c}\n", "a.yaml:1: node.id: ", "must be 1 to");
    refused(MINIMAL "raft:\n  tick_ms: 5\n", "a.yaml:4: raft.tick_ms: ", "must be 10 to 10000 ms, not 5");
    refused(MINIMAL "raft:\n  tick_ms: -5\n", "a.yaml:4: raft.tick_ms: ", "not -5");
    refused(MINIMAL "raft: {segment_bytes: 2GiB}\n", "a.yaml:3: raft.segment_bytes: ", "not 2GiB");
    refused(MINIMAL "raft: {segment_bytes: 100001}\n", "a.yaml:3: raft.segment_bytes: ", "multiple of 4096");
    refused(MINIMAL "raft: {heartbeat_ms: 200}\n", "a.yaml:3: raft.heartbeat_ms: ", "a third");
    refused(MINIMAL "api: {max_deadline_ms: 100}\n",
            "a.yaml:1: api.default_deadline_ms: ", "max_deadline_ms");
    refused(MINIMAL "freshness_alarm_ms: 100\n", "a.yaml:3: freshness_alarm_ms: ", "raft.tick_ms");
    refused("node: {id: 1, data_dir: /x}\ncluster: {id: c, shards: 65}\n",
            "a.yaml:2: cluster.shards: ", "1 to 64");
    refused("node: {id: 1, data_dir: /x}\ncluster: {id: 'a b'}\n",
            "a.yaml:2: cluster.id: ", "without spaces");
    refused("node: {id: 1, data_dir: ''}\ncluster: {id: c}\n", "a.yaml:1: node.data_dir: ", "not be empty");
    char text[1000] = "node: {id: 1, data_dir: /x}\ncluster: {id: ";
    memset(text + strlen(text), 'c', 70);
    strcat(text, "}\n");
    refused(text, "a.yaml:2: cluster.id: ", "at most 64 bytes");
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    refused("", "a.yaml:1: ", "empty");
    refused("node: {id: 1\n", "a.yaml:", "not YAML");
    refused("node:\n\tid: 1\n", "a.yaml:2: not YAML", "");
    refused("node: {id: \xff}\n", "a.yaml:", "not YAML");
    refused(MINIMAL "---\nnode: {}\n", "a.yaml:4: ", "second document");
    refused(MINIMAL "raft:\n  tick_ms: 200\n  tick_ms: 300\n", "a.yaml:5: raft.tick_ms: ", "first in line 4");
    refused(MINIMAL "log: {level: \"a\\0b\"}\n", "a.yaml:3: log.level: ", "NUL");
    refused("node: {data_dir: /x}\ncluster: {id: c}\n", "a.yaml:1: node.id: ", "must be given");
    refused("node: {id: 1}\ncluster: {id: c}\n", "a.yaml:1: node.data_dir: ", "must be given");
    refused("node: {id: 1, data_dir: /x}\n", "a.yaml:1: cluster.id: ", "must be given");
    refused("node: &a {id: 1, data_dir: /x, name: *a}\n", "a.yaml:1: node.name: ", "single value");
    char *brackets = malloc(200001); /* libyaml alone would take minutes for this */
    assert_non_null(brackets);
    memset(brackets, '[', 200000);
    brackets[200000] = 0;
    refused(brackets, "a.yaml:1: ", "nested more than 16 deep");
    free(brackets);
    assert_int_equal(dn_config_load("/nonexistent/x.yaml", &config, &err), DN_IO);
    assert_non_null(strstr(err.message, "/nonexistent/x.yaml"));
}

#define ONE "node: {id: 1, data_dir: /x}\n"
static void members_are_checked(void **state)
{
    (void)state;
    refused(ONE "cluster:\n  id: c\n  members:\n    - {id: 2, name: a, address: '127.0.0.1:1'}\n",
            "a.yaml:1: node.id: ", "not among cluster.members: to join their cluster, give node.address");
    refused(ONE "cluster:\n  id: c\n  members:\n    - {id: 1, name: a, address: '127.0.0.1:1'}\n"
                "    - {id: 1, name: b, address: '127.0.0.1:2'}\n",
            "a.yaml:6: cluster.members[].id: ", "another member");
    refused(ONE "cluster:\n  id: c\n  members:\n    - {id: 1, name: a, address: '127.0.0.1:1'}\n"
                "    - {id: 2, name: a, address: '127.0.0.1:2'}\n",
            "a.yaml:6: cluster.members[].name: ", "another member");
    refused(ONE "cluster:\n  id: c\n  members:\n    - {id: 1, name: a, address: '127.0.0.1:1'}\n"
                "    - {id: 2, name: b, address: '127.0.0.1:1'}\n",
            "a.yaml:6: cluster.members[].address: ", "another member");
    refused(ONE "cluster: {id: c, members: [{id: 1, name: a}]}\n",
            "a.yaml:2: cluster.members[].address: ", "must be given");
    refused(ONE "cluster: {id: c, members: []}\n", "a.yaml:2: cluster.members: ", "empty");
    refused(ONE "cluster: {id: c, members: [{id: 1, name: a, address: '127.0.0.1:0'}]}\n",
            "a.yaml:2: cluster.members[].address: ", "port 0");
    char text[2000] = ONE "cluster:\n  id: c\n  members:\n";
    for (int i = 1; i <= 8; i++)
        sprintf(text + strlen(text), "    - {id: %d, name: n%d, address: '127.0.0.1:%d'}\n", i, i, i);
    refused(text, "a.yaml:12: cluster.members: ", "more than 7");
}

/* node.id 4 and two members on loopback; `extra` goes into the section node. */
static const char *joining(const char *extra)
{
    static char text[600];

    snprintf(
        text, sizeof(text),
        "node: {id: 4, data_dir: /x%s}\ncluster:\n  id: c\n  members:\n"
        "    - {id: 1, name: a, address: '127.0.0.1:1'}\n    - {id: 2, name: b, address: '127.0.0.1:2'}\n",
        extra);
    return text;
}

static void a_node_may_join_a_cluster(void **state)
{
    uint8_t key[DN_HASH_KEY_BYTES];
    bool derived;

    (void)state;
    refused(joining(""), "a.yaml:1: node.id: ", "give node.address");
    if (parse(joining(", address: '127.0.0.1:4'")) != DN_OK)
        fail_msg("%s", err.message);
    const struct dn_config_member *self = dn_config_self(&config);
    assert_non_null(self);
    assert_int_equal(self->id, 4);
    assert_string_equal(self->address, "127.0.0.1:4");
    assert_string_equal(self->name, "node-4");
    assert_string_equal(config.node.name, "node-4");
    assert_int_equal(config.cluster.member_count, 2); /* whom it asks */
    assert_int_equal(parse(joining(", name: d, address: '127.0.0.1:4'")), DN_OK);
    assert_string_equal(dn_config_self(&config)->name, "d");
    refused(joining(", name: b, address: '127.0.0.1:4'"), "a.yaml:1: node.name: ", "another node's");
    refused(joining(", address: '127.0.0.1:2'"), "a.yaml:1: node.address: ", "another node's");
    refused(joining(", address: '127.0.0.1:0'"), "a.yaml:1: node.address: ", "port 0");
    refused(joining(", address: '10.0.0.4:1'"), "a.yaml:1: node.address: ", "peers.key_file");
    char text[700];
    snprintf(text, sizeof(text), "%speers: {key_file: k}\n", joining(", address: '10.0.0.4:1'"));
    assert_int_equal(parse(text), DN_OK);
    assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_INVALID); /* beyond loopback */

    /* A member has its entry; node.address stands above the address there. */
    assert_int_equal(parse(ONE "cluster: {id: c, members: [{id: 1, name: a, address: '127.0.0.1:1'}]}\n"),
                     DN_OK);
    assert_string_equal(dn_config_self(&config)->address, "127.0.0.1:1");
    assert_string_equal(config.node.address, "");
    assert_int_equal(parse("node: {id: 1, data_dir: /x, address: '127.0.0.1:9'}\ncluster: {id: c}\n"), DN_OK);
    assert_string_equal(dn_config_self(&config)->address, "127.0.0.1:9");
    assert_int_equal(config.raft.balance_ms, 5000);
    assert_int_equal(parse(MINIMAL "raft: {balance_ms: 0}\n"), DN_OK);
    assert_int_equal(config.raft.balance_ms, 0);
}

static void beyond_loopback_must_be_allowed(void **state)
{
    static const char *const OPEN[] = {"0.0.0.0:1", "10.1.2.3:1", "[::]:1", "127.example.com:1", "db:1"};
    char text[300];

    (void)state;
    for (size_t i = 0; i < sizeof(OPEN) / sizeof(OPEN[0]); i++) {
        assert_false(dn_address_is_loopback(OPEN[i]));
        snprintf(text, sizeof(text), MINIMAL "api: {address: '%s'}\n", OPEN[i]);
        refused(text, "a.yaml:3: api.address: ", "api.allow_plaintext");
        snprintf(text, sizeof(text), MINIMAL "peers: {bind: '%s'}\n", OPEN[i]);
        refused(text, "a.yaml:3: peers.bind: ", "peers.key_file");
        snprintf(text, sizeof(text), MINIMAL "api: {address: '%s', allow_plaintext: true}\n", OPEN[i]);
        assert_int_equal(parse(text), DN_OK);
        snprintf(text, sizeof(text), ONE "cluster: {id: c, members: [{id: 1, name: a, address: '%s'}]}\n",
                 OPEN[i]);
        refused(text, "a.yaml:2: cluster.members[].address: ", "peers.key_file");
        snprintf(text, sizeof(text), MINIMAL "peers: {bind: '%s', key_file: k}\n", OPEN[i]);
        assert_int_equal(parse(text), DN_OK);
        snprintf(text, sizeof(text), MINIMAL "peers: {bind: '%s', allow_without_key: true}\n", OPEN[i]);
        assert_int_equal(parse(text), DN_OK);
    }
    refused(MINIMAL "peers: {previous_key_file: k}\n",
            "a.yaml:3: peers.previous_key_file: ", "peers.key_file");
    refused(MINIMAL "raft: {journal_io: fast}\n", "a.yaml:3: raft.journal_io: ", "io_uring");
    assert_true(dn_address_is_loopback("127.8.9.1:1"));
    assert_true(dn_address_is_loopback("localhost:1"));
    assert_true(dn_address_is_loopback("[::1]:1"));
}

/* ---- the sample and printing -------------------------------------------------------------------------- */

static void the_sample_is_up_to_date(void **state)
{
    static char path[4096];
    struct dn_buffer sample;
    struct dn_config plain;
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    (void)state;
    dn_buffer_init(&sample, 1 << 20);
    dn_config_print_sample(&sample);
    assert_false(sample.failed);
    if (dn_config_parse("sample", sample.bytes, sample.length, &config, &err) != DN_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < count; i++)
        if (config.lines[i] == 0 && strncmp(keys[i].path, "sources[].", 10) != 0 && /* test_sources.c */
            strncmp(keys[i].path, "experiment.", 11) != 0)                          /* test_experiment.c */
            fail_msg("%s is not in the sample", keys[i].path);
    assert_int_equal(config.source_count, 0);
    /* What the sample says is what a file without those keys gets. */
    plain = config;
    assert_int_equal(parse("node: {id: 1, data_dir: /var/lib/dunlin}\ncluster: {id: dunlin-demo}\n"), DN_OK);
    memset(plain.lines, 0, sizeof(plain.lines));
    memset(config.lines, 0, sizeof(config.lines));
    plain.cluster.members[0].line = config.cluster.members[0].line;
    assert_memory_equal(&plain, &config, sizeof(plain));

    snprintf(path, sizeof(path), "%s", __FILE__);
    *strstr(path, "tests/unit/node") = 0;
    strcat(path, "docs/dunlind.sample.yaml");
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s: cannot open", path);
    char *bytes = malloc(sample.length + 1);
    size_t length = fread(bytes, 1, sample.length + 1, file);
    fclose(file);
    if (length != sample.length || memcmp(bytes, sample.bytes, length) != 0)
        fail_msg("%s is out of date: make it anew with dunlind --sample-config", path);
    free(bytes);
    dn_buffer_free(&sample);
}

static void printed_loads_again(void)
{
    struct dn_config before;
    struct dn_buffer out;

    before = config;
    dn_buffer_init(&out, 1 << 20);
    dn_config_print(&config, &out);
    assert_false(out.failed);
    if (dn_config_parse("printed", out.bytes, out.length, &config, &err) != DN_OK)
        fail_msg("%s", err.message);
    memset(before.lines, 0, sizeof(before.lines));
    memset(config.lines, 0, sizeof(config.lines));
    for (int i = 0; i < 2; i++)
        before.cluster.members[i].line = config.cluster.members[i].line = 0;
    assert_memory_equal(&before, &config, sizeof(before));
    dn_buffer_free(&out);
}

static void what_is_printed_loads_again(void **state)
{
    (void)state;
    assert_int_equal(parse("node: {id: 2, data_dir: \"/tmp/a b: #\\\"c\\\\\", name: 'yes'}\n"
                           "cluster:\n  id: \"x\"\n  members:\n"
                           "    - {id: 1, name: 'a,b', address: '127.0.0.1:1'}\n"
                           "    - {id: 2, name: '- x', address: '[::1]:2'}\n"
                           "raft: {segment_bytes: 1028096, min_free_bytes: 3GiB}\n"
                           "recommend: {type_weights: {view: 0.1, remove: -12.5}}\n"),
                     DN_OK);
    printed_loads_again();
    assert_int_equal(parse(joining(", address: '127.0.0.1:4'")), DN_OK);
    printed_loads_again();
}

/* ---- random files -------------------------------------------------------------------------------------- */

static void mutated_files_never_break_the_loader(void **state)
{
    const char *given = getenv("DUNLIN_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    uint64_t random_state = seed;
    struct dn_buffer sample;
    int loaded = 0;

    (void)state;
    print_message("seed %llu (set DUNLIN_SEED to repeat)\n", (unsigned long long)seed);
    dn_buffer_init(&sample, 1 << 20);
    dn_config_print_sample(&sample);
    char *bytes = malloc(sample.length);
    for (int round = 0; round < 400; round++) {
        static const char BYTES[] = "\n :-{}[]#&*\"'?!0a\t\xc3";
        size_t length = sample.length;

        memcpy(bytes, sample.bytes, length);
        for (int i = 0; i < 1 + round % 4; i++) {
            random_state = random_state * 6364136223846793005u + 1442695040888963407u;
            bytes[(random_state >> 33) % length] = BYTES[(random_state >> 20) % (sizeof(BYTES) - 1)];
        }
        if (round % 5 == 0)
            length = (random_state >> 30) % length;
        memset(&err, 0, sizeof(err));
        enum dn_code code = dn_config_parse("m", bytes, length, &config, &err);
        if (code == DN_OK)
            loaded++;
        else
            assert_true(code == DN_INVALID && strncmp(err.message, "m:", 2) == 0);
    }
    assert_true(loaded > 0); /* most bytes are comments */
    free(bytes);
    dn_buffer_free(&sample);
}

/* ---- the hash key -------------------------------------------------------------------------------------- */

static void write_key(const char *path, const char *text, mode_t mode)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void the_hash_key(void **state)
{
    char folder[] = "/tmp/dunlin-config-XXXXXX";
    char path[64];
    uint8_t key[DN_HASH_KEY_BYTES], other[DN_HASH_KEY_BYTES];
    char fingerprint[DN_FINGERPRINT_MAX], second[DN_FINGERPRINT_MAX];
    bool derived;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/key", folder);
    assert_int_equal(parse(MINIMAL), DN_OK);
    assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_OK);
    assert_true(derived);
    strcpy(config.cluster.id, "other");
    assert_int_equal(dn_config_hash_key(&config, other, &derived, &err), DN_OK);
    assert_memory_not_equal(key, other, sizeof(key));
    dn_key_fingerprint(key, fingerprint);
    dn_key_fingerprint(other, second);
    assert_int_equal(strlen(fingerprint), 32);
    assert_string_not_equal(fingerprint, second);

    strcpy(config.api.address, "10.0.0.1:7070");
    assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_INVALID);
    snprintf(config.secrets.hash_key_file, sizeof(config.secrets.hash_key_file), "%s", path);
    assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_IO);
    write_key(path, "000102030405060708090a0b0c0d0E0F\n", 0600);
    if (dn_config_hash_key(&config, key, &derived, &err) != DN_OK)
        fail_msg("%s", err.message);
    assert_false(derived);
    for (int i = 0; i < DN_HASH_KEY_BYTES; i++)
        assert_int_equal(key[i], i);
    write_key(path, "000102030405060708090a0b0c0d0e0f", 0640);
    assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_DENIED);
    assert_non_null(strstr(err.message, "0640"));
    static const char *const BAD[] = {"", "00", "000102030405060708090a0b0c0d0e0g",
                                      "000102030405060708090a0b0c0d0e0f00",
                                      "0001020304050607 8090a0b0c0d0e0f"};
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        write_key(path, BAD[i], 0600);
        assert_int_equal(dn_config_hash_key(&config, key, &derived, &err), DN_INVALID);
        assert_non_null(strstr(err.message, "32 hex characters"));
    }
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(minimal_file_gets_the_defaults),
        cmocka_unit_test(a_whole_cluster_loads),
        cmocka_unit_test(unknown_keys_are_refused),
        cmocka_unit_test(wrong_types_are_refused),
        cmocka_unit_test(bad_ranges_are_refused),
        cmocka_unit_test(broken_files_are_refused),
        cmocka_unit_test(members_are_checked),
        cmocka_unit_test(a_node_may_join_a_cluster),
        cmocka_unit_test(beyond_loopback_must_be_allowed),
        cmocka_unit_test(the_sample_is_up_to_date),
        cmocka_unit_test(what_is_printed_loads_again),
        cmocka_unit_test(mutated_files_never_break_the_loader),
        cmocka_unit_test(the_hash_key),
    };

    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
