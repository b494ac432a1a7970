# `make kafka` gets a real Apache Kafka broker into .cache/kafka/libs. Needs Java 17 or newer and Maven.
# Tests marked `kafka` run when it is there and are skipped by name when it is not.
KAFKA_LIBS ?= .cache/kafka/libs
MAVEN_DEPENDENCY_PLUGIN := org.apache.maven.plugins:maven-dependency-plugin:3.8.1

.PHONY: kafka
kafka: $(KAFKA_LIBS)/.complete ## Get a real Apache Kafka broker for tests and for use (Java 17 and Maven).

$(KAFKA_LIBS)/.complete: mk/kafka-pom.xml
	@command -v java >/dev/null || { echo "make kafka: Java 17 or newer is missing" >&2; exit 1; }
	@command -v mvn >/dev/null || { echo "make kafka: Maven (mvn) is missing" >&2; exit 1; }
	rm -rf $(KAFKA_LIBS) && mkdir -p $(KAFKA_LIBS)
	mvn -B -q -f mk/kafka-pom.xml $(MAVEN_DEPENDENCY_PLUGIN):copy-dependencies \
	  -DincludeScope=runtime "-DoutputDirectory=$$(realpath $(KAFKA_LIBS))"
	touch $@

KAFKA_SECURE ?= .cache/kafka-secure
VEHICLES ?= car-1

.PHONY: kafka-secure
kafka-secure: $(KAFKA_LIBS)/.complete $(DEMO_READY) ## A Kafka with mTLS and access rights to try things out on (VEHICLES="car-1 car-2"; Ctrl-C ends it).
	$(BIN)/python -m devservers.secure_kafka $(KAFKA_SECURE) $(VEHICLES)
