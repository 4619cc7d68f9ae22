/* Cluster.ListMembers and Cluster.ChangeMember against a played consensus, and an API that is not open yet.
 */
#include "played.h"

static void test_members_are_listed(void **state)
{
    (void)state;
    Dunlin__V1__ListMembersRequest request = DUNLIN__V1__LIST_MEMBERS_REQUEST__INIT;
    begin("/dunlin.v1.Cluster/ListMembers", &request);
    Dunlin__V1__ListMembersResponse *list = end(&dunlin__v1__list_members_response__descriptor);
    assert_non_null(list);
    assert_false(list->formed);
    assert_int_equal(list->n_members, 0);
    assert_int_equal(list->node_id, 2);
    dunlin__v1__list_members_response__free_unpacked(list, NULL);

    played.members = (struct dn_members){.formed = true, .config_index = 77, .count = DN_MEMBERS_MAX};
    snprintf(played.members.waiting_for, sizeof played.members.waiting_for, "nothing");
    for (size_t i = 0; i < DN_MEMBERS_MAX; i++) {
        struct dn_member_info *info = &played.members.members[i];
        *info = (struct dn_member_info){.node_id = i + 1, .raft_id = UINT64_MAX - i, .role = DN_ROLE_VOTER};
        memset(info->address, 'a' + (int)i, DN_ADDRESS_MAX - 1); /* as long as they get */
    }
    played.members.members[1] = (struct dn_member_info){.node_id = 2,
                                                        .raft_id = 22,
                                                        .role = DN_ROLE_LEARNER,
                                                        .replaces = 21,
                                                        .connected = true,
                                                        .self = true,
                                                        .groups = 3,
                                                        .voting = 2,
                                                        .leading = 1,
                                                        .address = "127.0.0.1:2"};
    played.members.members[15].role = DN_ROLE_WAITING;
    begin("/dunlin.v1.Cluster/ListMembers", &request);
    list = end(&dunlin__v1__list_members_response__descriptor);
    assert_non_null(list);
    assert_true(list->formed);
    assert_int_equal(list->config_index, 77);
    assert_int_equal(list->groups, SHARDS + 1);
    assert_string_equal(list->waiting_for, "nothing");
    assert_int_equal(list->n_members, DN_MEMBERS_MAX);
    assert_int_equal(strlen(list->members[0]->address), DN_ADDRESS_MAX - 1);
    assert_true(list->members[0]->raft_id == UINT64_MAX);
    assert_string_equal(list->members[0]->name, "first");
    const Dunlin__V1__Member *self = list->members[1];
    assert_true(self->self && self->connected);
    assert_int_equal(self->role, DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEARNER);
    assert_int_equal(self->raft_id, 22);
    assert_int_equal(self->replaces, 21);
    assert_int_equal(self->groups * 100 + self->voting * 10 + self->leading, 321);
    assert_string_equal(self->address, "127.0.0.1:2");
    assert_string_equal(self->name, "played");
    assert_string_equal(list->members[2]->name, "");
    dunlin__v1__list_members_response__free_unpacked(list, NULL);

    /* Status has them too, but for the one that waits. */
    Dunlin__V1__StatusRequest status_request = DUNLIN__V1__STATUS_REQUEST__INIT;
    begin("/dunlin.v1.Cluster/Status", &status_request);
    Dunlin__V1__StatusResponse *status = end(&dunlin__v1__status_response__descriptor);
    assert_non_null(status);
    assert_int_equal(status->n_members, DN_MEMBERS_MAX - 1);
    assert_string_equal(status->members[1]->peer_address, "127.0.0.1:2");
    dunlin__v1__status_response__free_unpacked(status, NULL);
    played.members.formed = false;
    begin("/dunlin.v1.Cluster/Status", &status_request);
    status = end(&dunlin__v1__status_response__descriptor);
    assert_non_null(status);
    assert_int_equal(status->n_members, 2); /* the configured ones */
    assert_string_equal(status->members[0]->name, "first");
    dunlin__v1__status_response__free_unpacked(status, NULL);
}

static void change_begin(Dunlin__V1__MemberOp op, uint64_t node_id, bool replica)
{
    Dunlin__V1__ChangeMemberRequest request = DUNLIN__V1__CHANGE_MEMBER_REQUEST__INIT;
    request.op = op;
    request.node_id = node_id;
    request.replica = replica;
    begin("/dunlin.v1.Cluster/ChangeMember", &request);
}

static void change_complete(enum dn_code code, const char *message)
{
    struct dn_error err = {.code = code};
    snprintf(err.message, sizeof err.message, "%s", message);
    played.changes[0]->done(played.changes[0], code, code == DN_OK ? NULL : &err);
}

#define OP(name) DUNLIN__V1__MEMBER_OP__MEMBER_OP_##name

static void test_members_are_changed(void **state)
{
    (void)state;
    static const struct {
        Dunlin__V1__MemberOp op;
        enum dn_member_op wanted;
        bool replica;
    } cases[] = {
        {OP(ADD), DN_MEMBER_ADD, false},         {OP(ADD), DN_MEMBER_ADD, true},
        {OP(PROMOTE), DN_MEMBER_PROMOTE, false}, {OP(REMOVE), DN_MEMBER_REMOVE, false},
        {OP(REPLACE), DN_MEMBER_REPLACE, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reset(NULL);
        change_begin(cases[i].op, 4 + i, cases[i].replica);
        await(&played.change_count, 1);
        const struct dn_member_change *change = played.changes[0];
        assert_int_equal(change->op, cases[i].wanted);
        assert_int_equal(change->node_id, 4 + i);
        assert_int_equal(change->replica, cases[i].replica);
        assert_true(change->deadline_us > dn_monotonic_us());
        h2_turn(&h2, 10);
        assert_false(answer.closed);
        change_complete(DN_OK, "");
        Dunlin__V1__ChangeMemberResponse *response = end(&dunlin__v1__change_member_response__descriptor);
        assert_non_null(response);
        dunlin__v1__change_member_response__free_unpacked(response, NULL);
    }
}

static void test_changes_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum dn_code code;
        int status;
    } cases[] = {
        {DN_PRECONDITION, 9}, {DN_NOT_FOUND, 5}, {DN_EXISTS, 6}, {DN_DEADLINE, 4}, {DN_UNAVAILABLE, 14}};
    char long_message[DN_ERROR_MESSAGE_MAX];
    memset(long_message, 'm', sizeof long_message - 4);
    memcpy(long_message + sizeof long_message - 4, "end", 4);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reset(NULL);
        change_begin(OP(PROMOTE), 4, false);
        await(&played.change_count, 1);
        change_complete(cases[i].code, i == 0 ? long_message : "what to do");
        ends_refused(cases[i].status, i == 0 ? "mmend" : "what to do");
    }
    reset(NULL);
    atomic_store(&full_changes, true);
    change_begin(OP(REMOVE), 4, false);
    ends_refused(8, "too many changes");
    change_begin(OP(UNSPECIFIED), 4, false);
    ends_refused(3, "op: 0; one of ADD");
    change_begin((Dunlin__V1__MemberOp)5, 4, false);
    ends_refused(3, "op: 5;");
    change_begin((Dunlin__V1__MemberOp)-1, 4, false);
    ends_refused(3, "op: -1;");
    change_begin(OP(ADD), 0, false);
    ends_refused(3, "node_id: 0");
    change_begin(OP(REPLACE), 1, true);
    ends_refused(3, "replica: goes with ADD");
    assert_int_equal(played.change_count, 0);
}

/* The client's deadline passes, or the client goes: the change is consensus' until it is done. */
static void test_a_change_outlives_its_call(void **state)
{
    (void)state;
    static const struct h2_header soon[] = {{"grpc-timeout", "100m"}, {NULL, NULL}};
    Dunlin__V1__PingRequest ping = DUNLIN__V1__PING_REQUEST__INIT;
    for (int cancelled = 0; cancelled <= 1; cancelled++) {
        reset(NULL);
        more_headers = cancelled ? NULL : soon;
        change_begin(OP(REPLACE), 4, false);
        more_headers = NULL;
        await(&played.change_count, 1);
        if (cancelled) {
            nghttp2_submit_rst_stream(h2.session, NGHTTP2_FLAG_NONE, answer.stream_id, NGHTTP2_CANCEL);
            assert_true(h2_until(&h2, &answer.closed, H2_WAIT_MS));
        } else {
            assert_true(played.changes[0]->deadline_us < dn_monotonic_us() + 100000);
            ends_refused(4, "the deadline passed");
        }
        /* A round trip later the server has seen it; the change is still whole, and may be written to. */
        begin("/dunlin.v1.Cluster/Ping", &ping);
        dunlin__v1__ping_response__free_unpacked(end(&dunlin__v1__ping_response__descriptor), NULL);
        assert_int_equal(played.changes[0]->node_id, 4);
        memset(played.changes[0]->opaque, 0xff, sizeof played.changes[0]->opaque);
        change_complete(DN_UNAVAILABLE, "too late");
        begin("/dunlin.v1.Cluster/Ping", &ping);
        dunlin__v1__ping_response__free_unpacked(end(&dunlin__v1__ping_response__descriptor), NULL);
    }
}

/* Before the node knows that the cluster is its own, it answers about the cluster and takes nothing. */
static void test_a_closed_api(void **state)
{
    (void)state;
    atomic_store(&api_open, false);
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT, *events[] = {&event};
    Dunlin__V1__PublishRequest publish = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    event.user_id = event.item_id = users[0];
    publish.n_events = 1;
    publish.events = events;
    begin("/dunlin.v1.Events/Publish", &publish);
    ends_refused(14, "the node takes no requests yet: waits, the test says");
    Dunlin__V1__GetSessionRequest get = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    get.user_id = users[0];
    begin("/dunlin.v1.Sessions/Get", &get);
    ends_refused(14, "takes no requests yet");
    assert_int_equal(played.proposal_count, 0);
    Dunlin__V1__PingRequest ping = DUNLIN__V1__PING_REQUEST__INIT;
    begin("/dunlin.v1.Cluster/Ping", &ping);
    Dunlin__V1__PingResponse *pong = end(&dunlin__v1__ping_response__descriptor);
    assert_non_null(pong);
    dunlin__v1__ping_response__free_unpacked(pong, NULL);
    Dunlin__V1__StatusRequest status_request = DUNLIN__V1__STATUS_REQUEST__INIT;
    begin("/dunlin.v1.Cluster/Status", &status_request);
    Dunlin__V1__StatusResponse *status = end(&dunlin__v1__status_response__descriptor);
    assert_non_null(status);
    assert_false(status->ready);
    assert_string_equal(status->not_ready_reason, "waits, the test says");
    dunlin__v1__status_response__free_unpacked(status, NULL);
    Grpc__Health__V1__HealthCheckRequest health = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    begin("/grpc.health.v1.Health/Check", &health);
    Grpc__Health__V1__HealthCheckResponse *said = end(&grpc__health__v1__health_check_response__descriptor);
    assert_non_null(said);
    assert_int_equal(said->status, 2);
    grpc__health__v1__health_check_response__free_unpacked(said, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_members_are_listed, reset),
        cmocka_unit_test_setup(test_members_are_changed, reset),
        cmocka_unit_test_setup(test_changes_are_refused, reset),
        cmocka_unit_test_setup(test_a_change_outlives_its_call, reset),
        cmocka_unit_test_setup(test_a_closed_api, reset),
    };
    int failed = cmocka_run_group_tests(tests, setup, teardown);
    h2_free(&answer);
    return failed;
}
