// Google's own fake of Pub/Sub on loopback, with one topic and one subscription. Each line on standard input asks for
// one thing, and each line on standard output answers one:
//
//	{"attributes": {…}}  publishes a message with these attributes and answers with its id
//	{"acks": "id"}       answers how often that message was acknowledged
//
// The first line out is the address. The process ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
)

type request struct {
	Attributes map[string]string `json:"attributes"`
	Acks       string            `json:"acks"`
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: pubsub-fake projects/P/topics/T projects/P/subscriptions/S")
	}
	topic, subscription := os.Args[1], os.Args[2]
	server := pstest.NewServer()
	defer server.Close()
	ctx := context.Background()
	if _, err := server.GServer.CreateTopic(ctx, &pb.Topic{Name: topic}); err != nil {
		log.Fatal(err)
	}
	created := &pb.Subscription{Name: subscription, Topic: topic, AckDeadlineSeconds: 10}
	if _, err := server.GServer.CreateSubscription(ctx, created); err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.Addr)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal(err)
		}
		if asked.Acks == "" {
			fmt.Println(server.Publish(topic, []byte("{}"), asked.Attributes))
			continue
		}
		acks := 0
		if message := server.Message(asked.Acks); message != nil {
			acks = message.Acks
		}
		fmt.Println(acks)
	}
}
