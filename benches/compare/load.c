/* The load of `make bench`: TCP streams, UDP datagrams and ICMP echoes whose content is checked.
 *
 *   load tcp-take  ADDRESS PORT FLOWS WARM_S SECONDS     prints "ready", then one JSON object
 *   load tcp-give  ADDRESS PORT FLOWS SECONDS
 *   load udp-take  ADDRESS PORT SIZE                     prints "ready", then one JSON object
 *   load udp-give  ADDRESS PORT SIZE SECONDS
 *   load echo      ADDRESS COUNT GAP_US SECONDS          one after the other, COUNT at most
 *   load cold      ADDRESS GAP_MS SECONDS                every GAP_MS until one is answered
 *
 * Both ends know the same PERIOD random bytes. A TCP stream repeats them, a datagram with number n
 * holds n and what follows from place n * STRIDE on; the receiver compares every byte. PERIOD is
 * prime, so a piece that is lost, doubled or in the wrong place shows. ADDRESS is IPv4. Nothing is
 * pinned, no priority is changed. An error ends the program with a line and exit code 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PERIOD = 131071,
    PIECE = 120 * 1024,
    STRIDE = 13,
    MAX_FLOWS = 64,
    BATCH = 64,
    MAX_DATAGRAM = 9000,
    MAX_NUMBER = 1 << 26,
    SOCKET_BYTES = 8 << 20,
    STALLED_S = 20, /* nothing moves for so long: the load fails */
    DRAINED_S = 60, /* what a sender has given to its kernel must be with the receiver by then */
    UNSENT_BYTES = 512 * 1024, /* in the sender's kernel, so that little is left when time is up */
    SILENT_S = 1, /* after that nothing more is waited for */
    MAX_ECHOES = 100000,
};

static char pattern[PERIOD + PIECE];
static struct sockaddr_in target;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void pause_s(double seconds)
{
    if (seconds > 0) {
        struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        nanosleep(&t, NULL);
    }
}

/* xorshift64 (Marsaglia 2003), the same at both ends. */
static void make_pattern(void)
{
    uint64_t x = 0x9E3779B97F4A7C15u;
    for (int i = 0; i < PERIOD; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = (char)(x >> 32);
    }
    memcpy(pattern + PERIOD, pattern, PIECE);
}

static void set_timeout(int fd, int option, int seconds)
{
    struct timeval t = {seconds, 0};
    if (setsockopt(fd, SOL_SOCKET, option, &t, sizeof t))
        die("setsockopt");
}

/* TCP */

struct flow {
    int fd;
    double until;
    atomic_ullong bytes;
    unsigned long long wrong;
};

static struct flow flows[MAX_FLOWS];

static int is_due(struct flow *flow)
{
    return now() >= flow->until;
}

static void *give_stream(void *argument)
{
    struct flow *flow = argument;
    uint64_t told[2];
    unsigned long long sent = 0;
    while (!is_due(flow)) {
        ssize_t n = send(flow->fd, pattern + sent % PERIOD, PIECE, MSG_NOSIGNAL);
        if (n < 0)
            die("send");
        sent += (unsigned long long)n;
    }
    shutdown(flow->fd, SHUT_WR);
    if (recv(flow->fd, told, sizeof told, MSG_WAITALL) != sizeof told)
        die("the far end's count");
    flow->bytes = sent;
    flow->wrong = told[1] + (told[0] != sent);
    return NULL;
}

static void *take_stream(void *argument)
{
    struct flow *flow = argument;
    char *buffer = malloc(PIECE);
    unsigned long long taken = 0;
    ssize_t n;
    while ((n = recv(flow->fd, buffer, PIECE, 0)) > 0) {
        flow->wrong += memcmp(buffer, pattern + taken % PERIOD, (size_t)n) != 0;
        taken += (unsigned long long)n;
        flow->bytes = taken;
    }
    if (n < 0)
        die("recv");
    free(buffer);
    uint64_t told[2] = {taken, flow->wrong};
    if (send(flow->fd, told, sizeof told, MSG_NOSIGNAL) != sizeof told)
        die("the count");
    close(flow->fd);
    return NULL;
}

static unsigned long long taken_so_far(int count)
{
    unsigned long long sum = 0;
    for (int i = 0; i < count; i++)
        sum += flows[i].bytes;
    return sum;
}

static void tcp_give(int count, double seconds)
{
    pthread_t threads[MAX_FLOWS];
    int unsent = UNSENT_BYTES;
    double began = now();
    for (int i = 0; i < count; i++) {
        flows[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (flows[i].fd < 0 || connect(flows[i].fd, (struct sockaddr *)&target, sizeof target))
            die("connect");
        set_timeout(flows[i].fd, SO_SNDTIMEO, STALLED_S);
        set_timeout(flows[i].fd, SO_RCVTIMEO, DRAINED_S);
        setsockopt(flows[i].fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    }
    for (int i = 0; i < count; i++) {
        flows[i].until = now() + seconds;
        if (pthread_create(&threads[i], NULL, give_stream, &flows[i]))
            die("pthread_create");
    }
    unsigned long long bytes = 0, wrong = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        bytes += flows[i].bytes;
        wrong += flows[i].wrong;
    }
    printf("{\"bytes\": %llu, \"wrong\": %llu, \"seconds\": %.6f}\n", bytes, wrong, now() - began);
}

static void tcp_take(int count, double warm_s, double seconds)
{
    pthread_t threads[MAX_FLOWS];
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&target, sizeof target) || listen(fd, MAX_FLOWS))
        die("bind");
    printf("ready\n");
    for (int i = 0; i < count; i++) {
        if ((flows[i].fd = accept(fd, NULL, NULL)) < 0)
            die("accept");
        set_timeout(flows[i].fd, SO_RCVTIMEO, STALLED_S);
        if (pthread_create(&threads[i], NULL, take_stream, &flows[i]))
            die("pthread_create");
    }
    pause_s(warm_s);
    unsigned long long before = taken_so_far(count);
    double began = now();
    pause_s(seconds);
    unsigned long long within = taken_so_far(count) - before;
    double lasted = now() - began;
    unsigned long long wrong = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
        wrong += flows[i].wrong;
    }
    printf("{\"bytes\": %llu, \"wrong\": %llu, \"window_bytes\": %llu, \"window_s\": %.6f}\n",
           taken_so_far(count), wrong, within, lasted);
}

/* UDP */

struct batch {
    struct mmsghdr messages[BATCH];
    struct iovec places[BATCH][2];
    uint64_t numbers[BATCH];
};

static void udp_give(int size, double seconds)
{
    static struct batch batch;
    int buffer = SOCKET_BYTES, fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&target, sizeof target))
        die("connect");
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    set_timeout(fd, SO_SNDTIMEO, STALLED_S);
    for (int i = 0; i < BATCH; i++) {
        batch.places[i][0] = (struct iovec){&batch.numbers[i], sizeof(uint64_t)};
        batch.messages[i].msg_hdr.msg_iov = batch.places[i];
        batch.messages[i].msg_hdr.msg_iovlen = 2;
    }
    uint64_t number = 0;
    unsigned long long refused = 0;
    double began = now();
    while (now() - began < seconds && number + BATCH < MAX_NUMBER) {
        for (int i = 0; i < BATCH; i++) {
            uint64_t n = number + (uint64_t)i;
            batch.numbers[i] = n;
            batch.places[i][1] =
                (struct iovec){pattern + n * STRIDE % PERIOD, (size_t)size - sizeof n};
        }
        int sent = sendmmsg(fd, batch.messages, BATCH, 0);
        if (sent < 0 && errno != ENOBUFS)
            die("sendmmsg");
        refused += sent < 0;
        number += sent > 0 ? (uint64_t)sent : 0;
    }
    printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n", (unsigned long long)number,
           refused, now() - began);
}

static unsigned char seen[MAX_NUMBER / 8];

struct tally {
    unsigned long long delivered, doubled, wrong, late;
    uint64_t highest;
};

static void count_datagram(struct tally *tally, const char *data, size_t length, size_t size)
{
    uint64_t n;
    memcpy(&n, data, sizeof n);
    if (length != size || n >= MAX_NUMBER ||
        memcmp(data + sizeof n, pattern + n * STRIDE % PERIOD, size - sizeof n)) {
        tally->wrong++;
    } else if (seen[n / 8] & (1 << n % 8)) {
        tally->doubled++;
    } else {
        seen[n / 8] |= (unsigned char)(1 << n % 8);
        tally->delivered++;
        tally->late += n < tally->highest;
        tally->highest = n > tally->highest ? n : tally->highest;
    }
}

static void udp_take(int size)
{
    static char data[BATCH][MAX_DATAGRAM];
    static struct mmsghdr messages[BATCH];
    static struct iovec places[BATCH];
    struct tally tally = {0};
    int buffer = SOCKET_BYTES, fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&target, sizeof target))
        die("bind");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
    set_timeout(fd, SO_RCVTIMEO, STALLED_S);
    for (int i = 0; i < BATCH; i++) {
        places[i] = (struct iovec){data[i], MAX_DATAGRAM};
        messages[i].msg_hdr.msg_iov = &places[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    printf("ready\n");
    double first = 0, last = 0;
    int n;
    while ((n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL)) > 0) {
        last = now();
        if (first == 0) {
            first = last;
            set_timeout(fd, SO_RCVTIMEO, SILENT_S);
        }
        for (int i = 0; i < n; i++)
            count_datagram(&tally, data[i], messages[i].msg_len, (size_t)size);
    }
    if (errno != EAGAIN)
        die("recvmmsg");
    printf("{\"delivered\": %llu, \"doubled\": %llu, \"wrong\": %llu, \"late\": %llu, "
           "\"seconds\": %.6f}\n",
           tally.delivered, tally.doubled, tally.wrong, tally.late, last - first);
}

/* ICMP echo: the far kernel answers, so nothing but the way is measured. */

enum { ECHO_BYTES = 56 };

static uint16_t internet_checksum(const void *data, size_t length)
{
    const uint16_t *words = data;
    uint32_t sum = 0;
    for (size_t i = 0; i < length / 2; i++)
        sum += words[i];
    sum = (sum >> 16) + (sum & 0xffff);
    return (uint16_t)~(sum + (sum >> 16));
}

static int open_echo(void)
{
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (fd < 0 || connect(fd, (struct sockaddr *)&target, sizeof target))
        die("raw socket");
    return fd;
}

static void send_echo(int fd, uint16_t sequence)
{
    char packet[sizeof(struct icmphdr) + ECHO_BYTES];
    struct icmphdr *header = (struct icmphdr *)packet;
    *header = (struct icmphdr){.type = ICMP_ECHO};
    header->un.echo.id = htons((uint16_t)getpid());
    header->un.echo.sequence = htons(sequence);
    memcpy(packet + sizeof *header, pattern + sequence, ECHO_BYTES);
    header->checksum = internet_checksum(packet, sizeof packet);
    /* Refused (no route yet, a full queue) is the same as lost. */
    (void)!send(fd, packet, sizeof packet, 0);
}

/* Wait for an answer until *until*; -1 if none came. */
static int take_answer(int fd, double until)
{
    char packet[2048];
    for (;;) {
        double left = until - now();
        struct pollfd waiting = {fd, POLLIN, 0};
        struct timespec t = {(time_t)left, (long)((left - (time_t)left) * 1e9)};
        if (left <= 0 || ppoll(&waiting, 1, &t, NULL) <= 0)
            return -1;
        ssize_t n = recv(fd, packet, sizeof packet, MSG_DONTWAIT);
        size_t start = 4u * ((struct iphdr *)packet)->ihl;
        struct icmphdr *header = (struct icmphdr *)(packet + start);
        if (n != (ssize_t)(start + sizeof *header + ECHO_BYTES) || header->type != ICMP_ECHOREPLY ||
            header->un.echo.id != htons((uint16_t)getpid()))
            continue;
        uint16_t sequence = ntohs(header->un.echo.sequence);
        if (memcmp(header + 1, pattern + sequence, ECHO_BYTES) == 0)
            return sequence;
    }
}

static int by_size(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static void run_echo(int count, double gap_s, double seconds)
{
    static double times[MAX_ECHOES];
    int fd = open_echo(), answered = 0, sent = 0;
    double ends = now() + seconds;
    for (; sent < count && sent < MAX_ECHOES && now() < ends; sent++) {
        double began = now();
        send_echo(fd, (uint16_t)sent);
        int answer;
        do
            answer = take_answer(fd, began + 1);
        while (answer >= 0 && answer != (uint16_t)sent);
        if (answer >= 0)
            times[answered++] = now() - began;
        pause_s(gap_s);
    }
    qsort(times, (size_t)answered, sizeof *times, by_size);
    double p50 = answered ? times[answered / 2] : -1, p99 = answered ? times[answered * 99 / 100] : -1;
    printf("{\"sent\": %d, \"lost\": %d, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", sent, sent - answered,
           p50 * 1e6, p99 * 1e6);
}

static void run_cold(double gap_s, double seconds)
{
    int fd = open_echo(), sent = 0, answered = 0;
    double began = now(), first = 0, next = began;
    while (!first && now() - began < seconds) {
        send_echo(fd, (uint16_t)sent++);
        next += gap_s;
        if (take_answer(fd, next) >= 0) {
            first = now();
            answered++;
        }
    }
    if (!first) {
        errno = ETIMEDOUT;
        die("no answer");
    }
    for (double ends = now() + SILENT_S; answered < sent && take_answer(fd, ends) >= 0;)
        answered++;
    printf("{\"first_ms\": %.3f, \"sent\": %d, \"lost\": %d}\n", (first - began) * 1e3, sent,
           sent - answered);
}

int main(int count, char **words)
{
    double n[4] = {0};
    if (count < 4) {
        fprintf(stderr, "usage: see the top of load.c\n");
        return 2;
    }
    const char *what = words[1];
    int has_port = what[3] == '-';
    target.sin_family = AF_INET;
    if (inet_pton(AF_INET, words[2], &target.sin_addr) != 1)
        die("address");
    target.sin_port = htons(has_port ? (uint16_t)atoi(words[3]) : 0);
    for (int i = 0, at = has_port ? 4 : 3; at < count && i < 4; i++, at++)
        n[i] = atof(words[at]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    make_pattern();
    if (!strcmp(what, "tcp-take"))
        tcp_take((int)n[0], n[1], n[2]);
    else if (!strcmp(what, "tcp-give"))
        tcp_give((int)n[0], n[1]);
    else if (!strcmp(what, "udp-take"))
        udp_take((int)n[0]);
    else if (!strcmp(what, "udp-give"))
        udp_give((int)n[0], n[1]);
    else if (!strcmp(what, "echo"))
        run_echo((int)n[0], n[1] / 1e6, n[2]);
    else if (!strcmp(what, "cold"))
        run_cold(n[0] / 1e3, n[1]);
    else
        return 2;
    return 0;
}
