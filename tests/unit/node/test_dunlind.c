/* dunlind as a process: it starts, serves, stops, keeps its data, and refuses what is not right with the exit
 * code that says so. */
#include "process.h"

static void put_item(const struct bench *b, char *id, float x, float y)
{
    float vector[] = {x, y};
    Dunlin__V1__Item item = DUNLIN__V1__ITEM__INIT;
    Dunlin__V1__Item *items[] = {&item};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    size_t length;

    item.id = id;
    item.n_vector = 2;
    item.vector = vector;
    request.n_items = 1;
    request.items = items;
    free(call(b, "/dunlin.v1.Catalog/Upsert", &request.base, &length));
}

/* Whether the first recommendation for the user is this item. */
static void first_recommended(const struct bench *b, char *user, const char *expected)
{
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    size_t length;

    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
    request.user_id = user;
    request.k = 2;
    request.read = &read;
    uint8_t *bytes = call(b, "/dunlin.v1.Recommendations/Recommend", &request.base, &length);
    Dunlin__V1__RecommendResponse *response = dunlin__v1__recommend_response__unpack(NULL, length, bytes);
    assert_non_null(response);
    assert_int_equal(response->n_items, 2);
    assert_string_equal(response->items[0]->id, expected);
    dunlin__v1__recommend_response__free_unpacked(response, NULL);
    free(bytes);
}

/* ---- tests -----------------------------------------------------------------------------------------------
 */

static void a_node_serves_stops_and_keeps_its_data(void **state)
{
    static char user[] = "ada", near[] = "near", far[] = "far", seen[] = "seen", e1[] = "e1", e2[] = "e2";
    struct bench *b = *state;
    struct stat info;

    start(b);
    wait_ready(b);
    assert_int_equal(stat(b->data, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    put_item(b, seen, 1, 0);
    put_item(b, near, 0.9f, 0.1f);
    put_item(b, far, 0, 1);
    publish(b, user, seen, e1);
    assert_int_equal(session_events(b, user), 1);
    first_recommended(b, user, "near");
    stop(b, SIGTERM, 0);

    start(b);
    wait_ready(b);
    assert_int_equal(session_events(b, user), 1);
    publish(b, user, far, e2);
    stop(b, SIGKILL, 1000 + SIGKILL);

    start(b);
    wait_ready(b);
    assert_int_equal(session_events(b, user), 2);
    stop(b, SIGINT, 0);
}

static void the_admin_port(void **state)
{
    static char user[] = "bob", item[] = "i", id[] = "1";
    struct bench *b = *state;

    start(b);
    wait_ready(b);
    assert_non_null(strstr(body, "ok"));
    publish(b, user, item, id);
    assert_int_equal(http(b, "GET", "/livez"), 200);
    assert_int_equal(http(b, "GET", "/"), 200);
    assert_non_null(strstr(body, "/metrics"));
    assert_int_equal(http(b, "GET", "/none"), 404);
    assert_int_equal(http(b, "POST", "/metrics"), 405);
    assert_int_equal(http(b, "HEAD", "/metrics"), 200);
    assert_int_equal(http(b, "GET", "/metrics"), 200);
    assert_non_null(strstr(body, "text/plain; version=0.0.4"));
    assert_true(metric("dunlin_ready ") == 1);
    assert_true(metric("dunlin_group_leader{group=\"0\"}") == 1);
    assert_true(metric("dunlin_group_leader{group=\"2\"}") == 1);
    assert_true(metric("dunlin_group_applied_index{group=\"1\"}") > 0);
    assert_true(metric("dunlin_sessions{group=\"1\"}") + metric("dunlin_sessions{group=\"2\"}") == 1);
    assert_true(metric("process_resident_memory_bytes ") > 1e6);
    assert_true(metric("dunlin_build_info{") == 1);
    assert_true(metric("dunlin_formed ") == 1);
    assert_true(metric("dunlin_members{role=\"waiting\"}") == 0);
    assert_true(metric("dunlin_members{role=\"replica\"}") == 0);
    assert_true(metric("dunlin_members{role=\"voter\"}") <= 1);
    assert_true(metric("dunlin_group_age_seconds{group=\"0\"}") < WAIT_S);
    stop(b, SIGTERM, 0);
}

static void wrong_options_and_configurations(void **state)
{
    struct bench *b = *state;
    const char *check[] = {"dunlind", "--config", b->config, "--check-config", NULL};

    ends(b, (const char *[]){"dunlind", NULL}, 2, "--config FILE is needed");
    ends(b, (const char *[]){"dunlind", "--no-such", NULL}, 2, "no-such");
    ends(b, (const char *[]){"dunlind", "--config", b->config, "more", NULL}, 2, "unexpected argument");
    ends(b, (const char *[]){"dunlind", "--version", NULL}, 0, "dunlind 0.");
    ends(b, (const char *[]){"dunlind", "--help", NULL}, 0, "--check-config");
    ends(b, (const char *[]){"dunlind", "--help", NULL}, 0, "--bootstrap-alone");
    ends(b, (const char *[]){"dunlind", "--sample-config", NULL}, 0, "hash_key_file");
    ends(b, (const char *[]){"dunlind", "--config", "/nonexistent.yaml", NULL}, 2, "/nonexistent.yaml");
    ends(b, check, 0, "good");
    ends(b, (const char *[]){"dunlind", "--config", b->config, "--print-config", NULL}, 0,
         "election_timeout_ms: 300");
    write_config(b, 1, "test", "raft: {tick_ms: 1}\n");
    ends(b, check, 2, "node.yaml:5: raft.tick_ms: must be 10 to 10000 ms");
    start_ends(b, 2, "node.yaml:5: raft.tick_ms: ");
    write_config(b, 1, "test", "index: {factory: NoSuchIndex}\n");
    start_ends(b, 2, "NoSuchIndex");
    write_config(b, 1, "test", "secrets: {hash_key_file: /nonexistent/key}\n");
    ends(b, check, 2, "/nonexistent/key");
    write_file(b->config, "node: {");
    start_ends(b, 2, "not YAML");
}

static void an_address_in_use(void **state)
{
    struct bench *b = *state;
    unsigned *const ports[] = {&b->api, &b->admin, &b->peers};

    for (int i = 0; i < 3; i++) {
        int fd = hold_port(ports[i], true);
        char says[64];

        snprintf(says, sizeof(says), "127.0.0.1:%u", *ports[i]);
        start_ends(b, 4, says);
        close(fd);
    }
    start(b);
    wait_ready(b);
    stop(b, SIGTERM, 0);
}

static void a_data_directory_that_is_not_ours(void **state)
{
    struct bench *b = *state;
    char path[PATH_TEXT + 16];

    start(b);
    wait_ready(b);
    /* A second process on the same folder, with ports of its own. */
    struct bench other = *b;
    other.pid = 0;
    snprintf(other.config, sizeof(other.config), "%s/other.yaml", b->folder);
    snprintf(other.log, sizeof(other.log), "%s/other.log", b->folder);
    other.api = other.admin = 0;
    write_config(&other, 1, "test", "");
    start_ends(&other, 3, b->data);
    stop(b, SIGTERM, 0);

    write_config(b, 2, "test", "");
    start_ends(b, 3, "node");
    write_config(b, 1, "another", "");
    start_ends(b, 3, "cluster");
    /* Another key than the cluster's. */
    snprintf(path, sizeof(path), "%s/key", b->folder);
    write_file(path, "00112233445566778899aabbccddeeff\n");
    assert_int_equal(chmod(path, 0600), 0);
    char extra[PATH_TEXT + 64];
    snprintf(extra, sizeof(extra), "secrets: {hash_key_file: %s}\n", path);
    write_config(b, 1, "test", extra);
    start_ends(b, 3, "key_fingerprint");
    /* Also when only the log knows the right one. */
    snprintf(path, sizeof(path), "%s/facts_seen", b->data);
    assert_int_equal(unlink(path), 0);
    start_ends(b, 3, "key_fingerprint");
    assert_int_equal(access(path, F_OK), -1);
    write_config(b, 1, "test", "");
    write_file(path, "dunlin facts 1\nshards");
    start_ends(b, 3, "facts_seen");
    assert_int_equal(unlink(path), 0);
    /* Everything put back, it starts. */
    start(b);
    wait_ready(b);
    assert_int_equal(access(path, F_OK), 0);
    stop(b, SIGTERM, 0);
    /* A folder that cannot be. */
    snprintf(b->data, sizeof(b->data), "%s/node.yaml/data", b->folder);
    write_config(b, 1, "test", "");
    start_ends(b, 3, "data_dir");
}

static void changed_settings_reach_the_state(void **state)
{
    static char user[] = "eve";
    struct bench *b = *state;

    write_config(b, 1, "test", "session: {events_per_user: 3}\n");
    start(b);
    wait_ready(b);
    /* The steward's record may still be on its way: the list is cut from the first event after it. */
    for (int i = 0; i < 200 && !strstr(read_log(b), "group 2: settings committed"); i++)
        usleep(PAUSE_US);
    for (int i = 0; i < 200 && !strstr(read_log(b), "group 1: settings committed"); i++)
        usleep(PAUSE_US);
    for (int i = 0; i < 6; i++) {
        char item[16], id[16];

        snprintf(item, sizeof(item), "item%d", i);
        snprintf(id, sizeof(id), "id%d", i);
        publish(b, user, item, id);
    }
    assert_int_equal(session_events(b, user), 3);
    stop(b, SIGTERM, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_node_serves_stops_and_keeps_its_data), TEST(the_admin_port),
        TEST(wrong_options_and_configurations),       TEST(an_address_in_use),
        TEST(a_data_directory_that_is_not_ours),      TEST(changed_settings_reach_the_state),
    };

    if (access(program(), X_OK) != 0) {
        fprintf(stderr, "%s is not there: build dunlind first\n", program());
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
