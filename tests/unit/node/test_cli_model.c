/* `dunlin model`: what it asks the server, what it prints, and files of weights that are not good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"
#include "tests/unit/client/tiny_server.h"

#include <fcntl.h>
#include <unistd.h>

enum { VECTORS = 2, FEATURES = 2 };

static struct tiny_server server;
static struct dn_cli cli;
static char path[] = "/tmp/dunlin-model-XXXXXX", out_path[] = "/tmp/dunlin-model-out-XXXXXX", printed[8192];
static atomic_int asked, changes;
static bool torn;  /* the answer of Get lacks a weight */
static bool leads; /* its network does */
static Dunlin__V1__ChangeModelRequest *last;

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant;
}

static size_t get_answer(uint8_t *bytes)
{
    float weights[VECTORS][FEATURES] = {{1.5f, -2}, {0.25f, 0}};
    char *features[FEATURES] = {text("seen"), text("rules")};
    Dunlin__V1__ModelVector vectors[VECTORS], *pointers[VECTORS];
    Dunlin__V1__GetModelResponse response = DUNLIN__V1__GET_MODEL_RESPONSE__INIT;
    Dunlin__V1__ModelNetwork network;

    for (size_t v = 0; v < VECTORS; v++) {
        dunlin__v1__model_vector__init(&vectors[v]);
        vectors[v].name = text(v == 0 ? "shared" : "1 event");
        vectors[v].weights = weights[v];
        vectors[v].n_weights = torn && v == 1 ? FEATURES - 1 : FEATURES;
        pointers[v] = &vectors[v];
    }
    response.learned = true;
    response.frozen = true;
    response.version = 77;
    response.generation = 3;
    response.steps = 12345;
    response.node_id = 2;
    response.node = text("second\x1b[2J");
    response.changed_ms = 1700000000000;
    response.features = features;
    response.n_features = FEATURES;
    response.vectors = pointers;
    response.n_vectors = VECTORS;
    dunlin__v1__model_network__init(&network);
    network.leads = leads;
    network.units = 16;
    network.steps = 9876;
    network.loss = 2.25f;
    network.weights_loss = 2.5f;
    response.network = &network;
    return dunlin__v1__get_model_response__pack(&response, bytes);
}

static void answer(struct tiny_server *tiny, struct tiny_stream *stream, const uint8_t *message,
                   size_t length)
{
    uint8_t bytes[1024];
    size_t size;

    atomic_fetch_add(&asked, 1);
    if (strcmp(stream->path, "/dunlin.v1.Model/Get") == 0) {
        size = get_answer(bytes);
    } else {
        Dunlin__V1__ChangeModelResponse response = DUNLIN__V1__CHANGE_MODEL_RESPONSE__INIT;
        if (last != NULL)
            dunlin__v1__change_model_request__free_unpacked(last, NULL);
        last = dunlin__v1__change_model_request__unpack(NULL, length, message);
        response.generation = 4;
        response.version = 99;
        response.token.data = (uint8_t *)text("\x01\xff");
        response.token.len = 2;
        size = dunlin__v1__change_model_response__pack(&response, bytes);
        atomic_fetch_add(&changes, 1);
    }
    tiny_body(stream, bytes, size, size);
    tiny_answer(tiny, stream, "0");
}

static int set_up(void **state)
{
    (void)state;
    memset(&server, 0, sizeof server);
    server.custom = answer;
    tiny_start(&server);
    cli = (struct dn_cli){.server = server.address, .timeout_ms = 5000};
    atomic_store(&asked, 0);
    atomic_store(&changes, 0);
    torn = false;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dn_client_close(cli.client);
    tiny_stop(&server);
    if (last != NULL)
        dunlin__v1__change_model_request__free_unpacked(last, NULL);
    last = NULL;
    return 0;
}

/* Runs it; what it wrote on both outputs is in `printed`. */
static int model(const char *action, const char *file)
{
    char *argv[] = {text("dunlin model"), text(action), text(file), NULL};
    int outputs[2] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
    int fd = open(out_path, O_RDWR | O_TRUNC | O_CLOEXEC);

    assert_true(fd >= 0);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    int exit_code = dn_cli_model(&cli, file != NULL ? 3 : 2, argv);
    fflush(stdout);
    dup2(outputs[0], STDOUT_FILENO);
    dup2(outputs[1], STDERR_FILENO);
    ssize_t length = pread(fd, printed, sizeof printed - 1, 0);
    assert_true(length >= 0);
    printed[length] = 0;
    close(fd);
    close(outputs[0]);
    close(outputs[1]);
    return exit_code;
}

static void expect_printed(const char *part)
{
    if (strstr(printed, part) == NULL)
        fail_msg("no '%s' in:\n%s", part, printed);
}

static void write_weights(const char *content)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* ---- tests ----------------------------------------------------------------------------------------------
 */

static void the_model_is_shown(void **state)
{
    (void)state;
    assert_int_equal(model("show", NULL), DN_CLI_OK);
    expect_printed("learned, generation 3, version 77, changed 2023-11-14T22:13:20Z; FROZEN");
    expect_printed("from 12345 clicks; last by node 2 second?[2J");
    expect_printed("-2.0000");
    expect_printed(
        "network of 16 units, from 9876 clicks: loss 2.2500, the weights' 2.5000; the weights serve");
    leads = true;
    assert_int_equal(model("show", NULL), DN_CLI_OK);
    expect_printed("2.5000; it corrects their scores");
    cli.json = true;
    assert_int_equal(model("show", NULL), DN_CLI_OK);
    json_t *shown = json_loads(printed, 0, NULL);
    assert_non_null(shown);
    json_t *shared = json_object_get(json_object_get(shown, "weights"), "shared");
    assert_true(json_real_value(json_object_get(shared, "rules")) == -2.0);
    assert_true(json_is_true(json_object_get(shown, "frozen")));
    assert_int_equal(json_integer_value(json_object_get(shown, "steps")), 12345);
    json_t *network = json_object_get(shown, "network");
    assert_true(json_is_true(json_object_get(network, "leads")));
    assert_int_equal(json_integer_value(json_object_get(network, "steps")), 9876);
    assert_true(json_real_value(json_object_get(network, "loss")) == 2.25);
    json_decref(shown);
    torn = true;
    assert_int_equal(model("show", NULL), DN_CLI_FAILED);
    expect_printed("not whole");
}

static void orders_are_passed_on(void **state)
{
    static const struct {
        const char *action;
        Dunlin__V1__ModelOp op;
    } cases[] = {{"reset", DUNLIN__V1__MODEL_OP__MODEL_OP_RESET},
                 {"freeze", DUNLIN__V1__MODEL_OP__MODEL_OP_FREEZE},
                 {"unfreeze", DUNLIN__V1__MODEL_OP__MODEL_OP_UNFREEZE}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(model(cases[i].action, NULL), DN_CLI_OK);
        expect_printed("generation 4");
        assert_int_equal(last->op, cases[i].op);
        assert_int_equal(last->n_features + last->n_vectors, 0);
    }
    cli.json = true;
    assert_int_equal(model("freeze", NULL), DN_CLI_OK);
    expect_printed("01ff");
}

/* What show --json writes can be given to set. */
static void weights_are_set_from_what_was_shown(void **state)
{
    (void)state;
    cli.json = true;
    assert_int_equal(model("show", NULL), DN_CLI_OK);
    write_weights(printed);
    assert_int_equal(model("set", path), DN_CLI_OK);
    assert_int_equal(last->op, DUNLIN__V1__MODEL_OP__MODEL_OP_SET);
    assert_int_equal(last->n_features, FEATURES);
    assert_int_equal(last->n_vectors, VECTORS);
    for (size_t v = 0; v < VECTORS; v++) {
        assert_string_equal(last->vectors[v]->name, v == 0 ? "shared" : "1 event");
        assert_int_equal(last->vectors[v]->n_weights, FEATURES);
        for (size_t f = 0; f < FEATURES; f++) {
            bool seen = strcmp(last->features[f], "seen") == 0;
            float want = v == 0 ? seen ? 1.5f : -2 : seen ? 0.25f : 0;
            assert_true(last->vectors[v]->weights[f] == want);
        }
    }
}

static void bad_files_are_not_sent(void **state)
{
    static const struct {
        const char *content, *part;
    } cases[] = {
        {"", "line 1"},
        {"[1]", "no object 'weights'"},
        {"{\"weights\": 5}", "no object 'weights'"},
        {"{\"weights\": {\"shared\": 5}}", "no weights by name in 'shared'"},
        {"{\"weights\": {\"shared\": {}}}", "no weights by name in 'shared'"},
        {"{\"weights\": {\"shared\": {\"seen\": \"1\"}}}", "no number for 'seen'"},
        {"{\"weights\": {\"shared\": {\"seen\": 1}, \"1 event\": {\"rules\": 1}}}", "no number for 'seen'"},
        {"{\"weights\": {\"shared\": {\"seen\": 1}, \"1 event\": {\"seen\": 1, \"rules\": 1}}}",
         "not the same features as in the first vector in '1 event'"},
        {"{\"weights\": {\"shared\": {\"seen\": 1, \"seen\": 2}}}", "duplicate"},
    };
    char many[4096] = "{\"weights\": {";
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_weights(cases[i].content);
        assert_int_equal(model("set", path), DN_CLI_FAILED);
        expect_printed(cases[i].part);
        expect_printed(path);
    }
    for (int i = 0; i < 17; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%s\"%d\": {\"seen\": 1}",
                 i > 0 ? ", " : "", i);
    strcat(many, "}}");
    write_weights(many);
    assert_int_equal(model("set", path), DN_CLI_FAILED);
    assert_int_equal(model("set", "/nowhere/at/all"), DN_CLI_FAILED);
    expect_printed("cannot open");
    assert_int_equal(atomic_load(&asked), 0);
}

static int open_files(void **state)
{
    (void)state;
    int fds[2] = {mkstemp(path), mkstemp(out_path)};
    assert_true(fds[0] >= 0 && fds[1] >= 0);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink(out_path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_model_is_shown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(orders_are_passed_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(weights_are_set_from_what_was_shown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_files_are_not_sent, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, open_files, remove_files);
}
