/* A model in C that serves itself: `line`, y = slope x + offset, with its two numbers in /weights/main/line.txt. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stop(int number) { (void)number; _exit(0); }

static void answer(int peer, const char *status, const char *body)
{
    dprintf(peer, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
            status, strlen(body), body);
}

int main(void)
{
    double slope, offset;
    FILE *weights = fopen("/weights/main/line.txt", "r");
    if (!weights || fscanf(weights, "%lf %lf", &slope, &offset) != 2) {
        fprintf(stderr, "line.txt is missing or has not two numbers\n");
        return 3;
    }
    signal(SIGTERM, stop);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8080)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 16)) {
        perror("8080");
        return 4;
    }
    for (int peer; (peer = accept(listener, NULL, NULL)) >= 0; close(peer)) {
        char text[65536], body[200], *rest, *found;
        size_t have = 0, wanted = 0;
        while (have < sizeof text - 1) {
            ssize_t got = read(peer, text + have, sizeof text - 1 - have);
            if (got <= 0)
                break;
            text[have += (size_t)got] = 0;
            if (!(rest = strstr(text, "\r\n\r\n")))
                continue;
            if ((found = strcasestr(text, "\r\ncontent-length:")) && found < rest)
                wanted = strtoul(found + 17, NULL, 10);
            if (have >= (size_t)(rest + 4 - text) + wanted)
                break;
        }
        text[have] = 0;
        if (!strncmp(text, "GET /healthz/", 13)) {
            answer(peer, "200 OK", "{}");
        } else if (!strncmp(text, "POST /invoke ", 13) && (found = strstr(text, "\"x\""))) {
            snprintf(body, sizeof body, "{\"y\": %.17g}", slope * strtod(strchr(found, ':') + 1, NULL) + offset);
            answer(peer, "200 OK", body);
        } else {
            answer(peer, "404 Not Found", "{\"error\": \"no such path, or no x\"}");
        }
    }
    return 5;
}
