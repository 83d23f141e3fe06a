/* Stand-ins for libcuda and libnccl (-DNCCL), so that the bindings can be run without a GPU: the same symbols with the same types.
 *
 * Device memory, streams and communicators lie in one file that all processes map at the same address (STAND_IN_MEMORY names it), so that
 * ranks may be threads or processes. NCCL's habits that bindings can trip over are kept: a communicator that is made of another one is
 * written to its place only when somebody looks at the parent, calls on one that is in progress are refused, and so is any use after its end.
 * What would deadlock or is undefined is counted in `violations`, with a word on stderr.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE (64ul << 30)
#define MOST 4096
#define RANKS 16
#define LAG 2

struct stream { atomic_int pending; };
struct op { int receives, peer; void *at; size_t bytes; struct stream *stream; };
struct comm {
  int clique, rank, ranks, waiting, lag, error, finalized, ended, derived, head, tail;
  struct op ops[8];
  struct comm *child, **place;
};
struct gather {
  int kind, of, nth, want, came, done;
  char id[128];
  struct { struct comm *comm, *parent; int colour, place; } comer[RANKS];
};
struct arena {
  atomic_int violations, lock;
  atomic_size_t used;
  int comms, cliques, gathers, ids;
  struct comm comm[MOST];
  struct { int n; struct comm *of[RANKS]; } clique[MOST];
  struct gather gather[MOST];
};

static struct arena *arena(void) {
  static struct arena *at;
  if (!at) {
    int file = open(getenv("STAND_IN_MEMORY"), O_RDWR);
    void *map = mmap((void *)0x600000000000, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, 0);
    if (map == MAP_FAILED) { perror("stand-in: STAND_IN_MEMORY"); abort(); }
    close(file);
    at = map;
  }
  return at;
}

#ifndef NCCL
static void *take(size_t bytes) {
  size_t whole = ((bytes + 4095) / 4096 + 1) * 4096;
  char *at = (char *)arena() + (sizeof(struct arena) / 4096 + 1) * 4096 + atomic_fetch_add(&arena()->used, whole);
  *(size_t *)at = whole;
  return at + 4096;
}
static void give(void *at) { madvise((char *)at - 4096, *(size_t *)((char *)at - 4096), MADV_REMOVE); }

int cuInit(unsigned flags) { return flags; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = 5; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < 5 ? 0 : 101; }
int cuDeviceGetAttribute(int *v, int attribute, int device) { (void)device; *v = attribute == 75 ? 9 : attribute == 76 ? 0 : 1 << 16; return 0; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "Stand-in"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = SIZE; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuCtxPushCurrent_v2(void *context) { return context ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { *context = NULL; return 0; }
int cuMemGetInfo_v2(size_t *unused, size_t *all) { *unused = *all = SIZE; return 0; }
int cuMemAlloc_v2(uint64_t *at, size_t bytes) { *at = (uint64_t)take(bytes); return 0; }
int cuMemFree_v2(uint64_t at) { give((void *)at); return 0; }
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = take(sizeof(struct stream)); return 0; }
int cuStreamDestroy_v2(void *stream) { give(stream); return 0; }
int cuStreamQuery(struct stream *stream) { return stream->pending ? 600 : 0; }
int cuStreamSynchronize(struct stream *stream) {
  if (stream->pending) { atomic_fetch_add(&arena()->violations, 1); fprintf(stderr, "stand-in: a wait for a busy stream would hang\n"); }
  return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) { (void)stream; memcpy((void *)to, from, bytes); return 0; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) { (void)stream; memcpy(to, (void *)from, bytes); return 0; }
int cuGetErrorName(int code, const char **name) { (void)code; *name = "a stand-in's error"; return 0; }

#else
struct config { size_t size; unsigned magic, version; int blocking; };
typedef struct { char bytes[128]; } id_t128;

static void lock(void) { while (atomic_exchange(&arena()->lock, 1)) sched_yield(); }
static int unlock(int code) { atomic_store(&arena()->lock, 0); return code; }
static int wrong(const char *what) {
  atomic_fetch_add(&arena()->violations, 1);
  fprintf(stderr, "stand-in: %s\n", what);
  return 5;
}

/* Whether a call other than a look or an abort makes sense. */
static int refuse(struct comm *c) {
  if (!c || c->ended) return wrong("a communicator that is gone");
  if (c->error) return wrong("a communicator that is broken");
  if (c->waiting || c->lag) return wrong("a communicator that is in progress");
  if (c->head != c->tail) return wrong("a communicator that is busy");
  return 0;
}

static struct comm *add(void) {
  if (arena()->comms == MOST) { wrong("too many communicators"); abort(); }
  struct comm *c = &arena()->comm[arena()->comms++];
  c->clique = -1;
  return c;
}

static void stand(struct gather *g) {
  for (int colour = 0; colour < RANKS; colour++) {
    int n = 0, q = arena()->cliques;
    for (int place = 0; place < 2 * RANKS; place++)
      for (int i = 0; i < g->came; i++)
        if (g->comer[i].colour == colour && g->comer[i].place == place) {
          struct comm *c = g->comer[i].comm;
          c->clique = q, c->rank = n;
          arena()->clique[q].of[n++] = c;
        }
    for (int i = 0; i < n; i++) arena()->clique[q].of[i]->ranks = n;
    if (n) arena()->clique[arena()->cliques++].n = n;
  }
  for (int i = 0; i < g->came; i++) {
    g->comer[i].comm->waiting = 0, g->comer[i].comm->lag = LAG;
    if (g->comer[i].parent) g->comer[i].parent->waiting = 0, g->comer[i].parent->lag = LAG;
  }
  g->done = 1;
}

static void come(int kind, int of, int nth, const char *id, int want, struct comm *c, struct comm *parent, int colour, int place) {
  struct gather *g = NULL;
  for (int i = 0; i < arena()->gathers && !g; i++) {
    struct gather *seen = &arena()->gather[i];
    if (seen->kind == kind && !seen->done && (id ? !memcmp(seen->id, id, 128) : seen->of == of && seen->nth == nth)) g = seen;
  }
  if (!g) {
    g = &arena()->gather[arena()->gathers++];
    g->kind = kind, g->of = of, g->nth = nth;
    if (id) memcpy(g->id, id, 128);
  }
  g->want = want;
  c->waiting = 1;
  if (parent) parent->waiting = 1;
  int i = g->came++;
  g->comer[i].comm = c, g->comer[i].parent = parent, g->comer[i].colour = colour, g->comer[i].place = place;
  if (g->came == want) stand(g);
}

/* Moves what is first in both streams of a pair. */
static void get_on(int clique) {
  for (int again = 1; again;) {
    again = 0;
    for (int a = 0; a < arena()->clique[clique].n; a++) {
      struct comm *from = arena()->clique[clique].of[a];
      if (from->ended || from->lag || from->head == from->tail) continue;
      struct op *send = &from->ops[from->head % 8];
      if (send->receives || send->peer >= arena()->clique[clique].n) continue;
      struct comm *to = arena()->clique[clique].of[send->peer];
      if (to->ended || to->lag || to->head == to->tail) continue;
      struct op *recv = &to->ops[to->head % 8];
      if (!recv->receives || recv->peer != a) continue;
      if (send->bytes != recv->bytes) wrong("as many bytes weren't received as were sent");
      memcpy(recv->at, send->at, send->bytes);
      from->head++, to->head++;
      send->stream->pending--;
      recv->stream->pending--;
      again = 1;
    }
  }
}

int ncclGetVersion(int *v) { *v = 23203; return 0; }
const char *ncclGetErrorString(int code) { return code ? "a stand-in's error" : "no error"; }
const char *ncclGetLastError(void *c) { (void)c; return ""; }

int ncclGetUniqueId(id_t128 *id) {
  lock();
  memset(id, 0, sizeof *id);
  sprintf(id->bytes, "id %d", ++arena()->ids);
  /* The last byte, too, must arrive at the other end. */
  id->bytes[127] = 'z';
  return unlock(0);
}

static int begin(struct config *config) {
  if (!config || config->magic != 0xcafebeef || config->blocking != 0 || config->size < 44 || config->version < 21400) return wrong("settings");
  return 0;
}

int ncclCommInitRankConfig(struct comm **place, int ranks, id_t128 id, int rank, struct config *config) {
  lock();
  if (begin(config) || id.bytes[127] != 'z') return unlock(4);
  *place = add();
  come(0, -1, 0, id.bytes, ranks, *place, NULL, 0, rank);
  return unlock(7);
}

static int child(struct comm *parent, struct comm **place, int kind, int want, int colour, int key) {
  *place = NULL;
  parent->child = add(), parent->place = place;
  come(kind, parent->clique, ++parent->derived, NULL, want, parent->child, parent, colour, key);
  return unlock(7);
}

int ncclCommSplit(struct comm *c, int colour, int key, struct comm **place, struct config *config) {
  (void)config;
  lock();
  if (refuse(c)) return unlock(4);
  return child(c, place, 1, c->ranks, colour, key);
}

static void drop_ops(struct comm *c) {
  for (; c->head != c->tail; c->head++) c->ops[c->head % 8].stream->pending--;
}

int ncclCommShrink(struct comm *c, int *out, int count, struct comm **place, struct config *config, int flags) {
  (void)config;
  lock();
  if (flags == 0 && refuse(c)) return unlock(4);
  drop_ops(c);
  c->lag = 0;
  int kind = 2;
  for (int i = 0; i < count; i++) kind += 100 << out[i];
  return child(c, place, kind, c->ranks - count, 0, c->rank);
}

int ncclCommGetUniqueId(struct comm *c, id_t128 *id) {
  lock();
  if (refuse(c)) return unlock(4);
  memset(id, 0, sizeof *id);
  sprintf(id->bytes, "grow %d %d", c->clique, c->derived + 1);
  id->bytes[127] = 'z';
  return unlock(0);
}

int ncclCommGrow(struct comm *c, int ranks, const id_t128 *id, int rank, struct comm **place, struct config *config) {
  lock();
  if (c) {
    if (refuse(c) || rank != -1 || ranks <= c->ranks) return unlock(4);
    return child(c, place, 3, ranks, 0, c->rank);
  }
  int of, nth;
  if (begin(config) || rank < 0 || sscanf(id->bytes, "grow %d %d", &of, &nth) != 2) return unlock(4);
  *place = add();
  come(3, of, nth, NULL, ranks, *place, NULL, 0, rank);
  return unlock(7);
}

int ncclCommGetAsyncError(struct comm *c, int *code) {
  lock();
  if (!c || c->ended) return unlock(wrong("a look at a communicator that is gone"));
  if (c->error || c->waiting || c->lag) {
    *code = c->error ? c->error : 7;
    if (!c->waiting && c->lag) c->lag--;
    return unlock(0);
  }
  if (c->child) *c->place = c->child, c->child = NULL;
  if (c->clique >= 0) get_on(c->clique);
  *code = 0;
  return unlock(0);
}

static int transfer(void *at, size_t bytes, int type, int peer, struct comm *c, struct stream *stream, int receives) {
  lock();
  if (refuse(c) || type != 0) return unlock(4);
  struct op op = {receives, peer, at, bytes, stream};
  c->ops[c->tail++ % 8] = op;
  stream->pending++;
  c->lag = 1;
  return unlock(7);
}
int ncclSend(void *at, size_t bytes, int type, int peer, struct comm *c, struct stream *s) { return transfer(at, bytes, type, peer, c, s, 0); }
int ncclRecv(void *at, size_t bytes, int type, int peer, struct comm *c, struct stream *s) { return transfer(at, bytes, type, peer, c, s, 1); }

int ncclCommFinalize(struct comm *c) {
  lock();
  if (refuse(c)) return unlock(4);
  c->finalized = 1, c->lag = LAG;
  return unlock(7);
}
int ncclCommDestroy(struct comm *c) {
  lock();
  if (refuse(c) || !c->finalized) return unlock(wrong("what isn't finalized is destroyed"));
  c->ended = 1;
  return unlock(0);
}
int ncclCommAbort(struct comm *c) {
  lock();
  if (!c || c->ended) return unlock(wrong("an abort of what is gone"));
  drop_ops(c);
  c->ended = 1;
  return unlock(7);
}
#endif
